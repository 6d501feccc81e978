"""What the Space keeps of one visitor, and for how long."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfft.errors import HfftError
from hfft.space.trainings.queue import Training
from hfft.space.uploads import Uploaded

KEPT = 3
"""How many models of a visitor's own are kept at a time."""


@dataclass
class Given:
    """Images that a visitor gave to train on.

    Args:
        folder: with ``<split>/<class>/``.
        uploaded: what is in it.
    """

    folder: Path
    uploaded: Uploaded = field(default_factory=Uploaded)


@dataclass
class OwnModel:
    """A model that a visitor trained.

    Args:
        run: folder of its run.
        images: folder, or list, of the images that it was trained on; None for the embedded ones.
    """

    run: Path
    images: Path | None


@dataclass(frozen=True)
class Tried:
    """A training that has ended, as the cut box remembers it.

    Args:
        images: folder that it was trained on; None for the embedded images.
        base: that it began from; None for the embedded model.
        policy: of it.
        epochs: that it was trained for.
        right: how many validation images the model had right.
        of: how many there were.
        seconds: that it took, from the button to the end.
        chosen: whether its epoch was chosen on these images.
    """

    images: Path | None
    base: str | None
    policy: str
    epochs: float
    right: int
    of: int
    seconds: float
    chosen: bool = False


@dataclass
class Session:
    """One visitor.

    Args:
        id: random; the browser keeps it, so that a reload finds the same session again.
        own: models that this visitor trained, by name, the oldest first.
        given: the images to train on.
        source: the kind of images that was chosen last; empty before a choice.
        training: that this visitor started last.
        folders: how many folders were made, which keeps names from being used twice.
        tried: trainings that have ended, the oldest first; they outlast the models.
        shown: the model that this visitor chose last, or trained since; to ask a model something is not to choose it.
        folder: with all that this visitor gave and trained, made when it is needed.
        desks: what the tabs that look after images keep of this visit, by tab.
        looked: folder, or list, of the images whose labels are looked at; None for those of others.
        lists: from the lists that decisions made to what each was made of.
        changing: held while the images to train on change, and while a training on them is started: what a visitor
            does meanwhile waits, and so nothing that was added or removed is undone by what began before it.
        seen: when something was last asked for, on the monotonic clock.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    own: dict[str, OwnModel] = field(default_factory=dict)
    given: Given | None = None
    source: str = ""
    training: Training | None = None
    folders: int = 0
    tried: list[Tried] = field(default_factory=list)
    shown: str = ""
    folder: Path | None = None
    desks: dict[str, Any] = field(default_factory=dict)
    looked: Path | None = None
    lists: dict[Path, Path | None] = field(default_factory=dict)
    changing: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    seen: float = field(default_factory=time.monotonic)

    def drop_unused(self) -> None:
        """Remove the images that no model, no list of labels and no training of this visitor refers to."""
        busy = self.training is not None and not self.training.ended
        if self.folder is None or busy:
            return
        used = {self.looked, self.given.folder if self.given else None, *(own.images for own in self.own.values())}
        used |= {folder for images in used for folder in self._origins(images)}
        for folder in self.folder.glob("images-*"):
            if folder not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def _origins(self, images: Path | None) -> Iterator[Path]:
        """Yield what a list was made of, and what that was made of in turn."""
        while images is not None and (images := self.lists.get(images)) is not None:
            yield images


class Visits:
    """The sessions of all visitors.

    A page is known by its connection, which a reload ends, and a visitor by the id that the browser keeps. Gradio's
    own state ends with the connection, and with it would go the model that took minutes to train.

    Args:
        minutes: after which a session that nobody used is ended.
        end: removes what a session left.
    """

    def __init__(self, minutes: float, end: Callable[[Session], None]) -> None:
        self.minutes = minutes
        self._end = end
        self._by_id: dict[str, Session] = {}
        self._by_connection: dict[str, str] = {}
        self._lock = threading.Lock()

    def of(self, connection: str | None) -> Session:
        """Return the session of a page; a new one for a page that is not known (any more), and without a page."""
        with self._lock:
            session = self._by_id.get(self._by_connection.get(connection or "", ""))
            return self._seen(connection, session or Session())

    def join(self, connection: str | None, visit: str | None) -> Session:
        """Return the session of an id that a browser kept, and let a page belong to it from now on."""
        with self._lock:
            known = self._by_id.get(visit or "")
            own = self._by_id.get(self._by_connection.get(connection or "", ""))
            session = known or own or Session()
            if own is not None and own.source:  # chosen while the page was still asking for this visit
                session.source = own.source
            return self._seen(connection, session)

    def begin(self) -> Session:
        """Return the session of a new visit without a page."""
        with self._lock:
            session = Session()
            return self._seen(session.id, session)

    def enter(self, visit: str) -> Session:
        """Return the session of a visit.

        Raises:
            HfftError: there is none of that name (any more).
        """
        with self._lock:
            session = self._by_id.get(visit)
            if session is None:
                raise HfftError("this visit is over, or never was; start a training again")
            session.seen = time.monotonic()
            return session

    def _seen(self, connection: str | None, session: Session) -> Session:
        session.seen = time.monotonic()
        self._by_id[session.id] = session
        self._by_connection[connection or session.id] = session.id
        return session

    def sweep(self) -> None:
        """End the sessions that nobody used for long."""
        latest = time.monotonic() - self.minutes * 60
        with self._lock:
            old = [session for session in self._by_id.values() if session.seen < latest]
            for session in old:
                del self._by_id[session.id]
            self._by_connection = {key: name for key, name in self._by_connection.items() if name in self._by_id}
        for session in old:
            self._end(session)


def new_folder(work: Path, kind: str) -> Path:
    """Make a folder of a name that nobody can guess below the Space's work folder.

    Args:
        work: the Space's work folder.
        kind: ``uploads`` or ``trainings``.
    """
    folder = work / kind / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return folder
