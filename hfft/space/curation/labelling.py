"""Photos without labels: the ones that would teach a model most, labelled one by one, and put among the classes."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from hfft.curate.choose import Choice, Chosen
from hfft.errors import DataError, HfftError
from hfft.report.typed_json import build
from hfft.space.curation.images import Pictures
from hfft.space.pictures import address_of
from hfft.space.service import Space
from hfft.space.trainings.queue import Errand, Training, data_options, found_by
from hfft.space.trainings.sessions import Given, Session
from hfft.space.trainings.visitors import cache_of
from hfft.space.uploads import add, class_names, open_upload, place, remove
from hfft.wording import count_of

KEY = "next"
"""Of this desk among a session's."""
MOST = 50
"""Photos that are asked about at a time."""
UNFIT = "Photos are ranked for models that give an image one label of several; choose such a model above."
_NO_LABEL = "label at least one photo first"
_SIDE = 360  # pixels of the longer side of the photo that is asked about


@dataclass
class Labelling:
    """Photos that are labelled one by one.

    Args:
        folder: with copies of the photos.
        choosing: what ranks them.
        model: that is to learn from them.
        photos: in the order in which they are asked about; None before they are ranked.
        labels: what was said of each, by number; an empty text is for one that was passed over.
        order: numbers of the photos that were answered, the last at the end.
        left_out: why files that were given are not among them.
        lock: held while something is answered, drawn or put among the classes.
    """

    folder: Path
    choosing: Training
    model: str
    photos: tuple[Choice, ...] | None = None
    labels: dict[int, str] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    left_out: Sequence[str] = ()
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def collect(self) -> None:
        """Take in the photos once they are ranked, whether or not anybody followed it."""
        with self.lock:
            if self.photos is None and self.choosing.state == "done":
                self.photos = build(Chosen, found_by(self.choosing), "the choice").chosen

    @property
    def status(self) -> str:
        """How far the ranking is, and what was left out of it."""
        others = f" Left out: {len(self.left_out)}; the first: {self.left_out[0]}." if self.left_out else ""
        return f"{self.choosing.state.capitalize()}. {self.choosing.message}{others}"

    @property
    def at(self) -> int | None:
        """Number of the photo that is asked about; None where there are none left."""
        return next((number for number in range(len(self.photos or ())) if number not in self.labels), None)

    @property
    def turn(self) -> str:
        """What the page keeps of the photo that is asked about, and sends with each press; no number, see `let_go`."""
        asked = "" if self.at is None or not self.photos else Path(self.photos[self.at].image).name
        return f"{self.folder.name}/{asked}"

    @property
    def labelled(self) -> dict[int, str]:
        """The photos that were given a label."""
        return {number: label for number, label in self.labels.items() if label}

    def answer(self, label: str) -> None:
        """Say what the photo is; nothing for passing it over.

        Raises:
            DataError: there is none.
        """
        number = self.at
        if number is None:
            raise DataError("there is no photo to label; add some above")
        self.labels[number] = label
        self.order.append(number)

    def undo(self) -> None:
        """Take the last answer back.

        Raises:
            DataError: there is none.
        """
        if not self.order:
            raise DataError("nothing was labelled that could be taken back")
        del self.labels[self.order.pop()]

    def let_go(self) -> int:
        """Forget the photos that were answered or passed over, and return how many are left to be asked about."""
        self.photos = tuple(each for number, each in enumerate(self.photos or ()) if number not in self.labels)
        self.labels, self.order = {}, []
        return len(self.photos)


class LabelNext:
    """The photos of all visits.

    Args:
        space: the models and the trainings.
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def of(self, session: Session) -> Labelling | None:
        """Return what a visit labels, with the photos as soon as they are ranked; None before they were given."""
        found: Labelling | None = session.desks.get(KEY)
        if found is not None:
            found.collect()
        return found

    def classes(self, session: Session, model: str | None) -> list[str]:
        """Return the classes that a photo can be given: those of the visitor's images, then others of the model."""
        own = list(session.given.uploaded.of("train")) if session.given else []
        known = list(self.space.loaded(session, model).classifier.labels) if model else []
        return [*own, *(label for label in known if label not in own)]

    def unfit(self, session: Session, model: str | None) -> str:
        """Say why photos are not labelled for a model; nothing where they are."""
        loaded = self.space.loaded_if_any(session, model)
        return "" if loaded is None or loaded.classifier.task.chooses else UNFIT

    def choose(self, session: Session, paths: Sequence[str], model: str | None) -> Training:
        """Rank photos by what their labels would teach a model; copies of them are kept.

        Raises:
            HfftError: there are no photos, no such model, or a search is under way.
        """
        before = self.of(session)
        if before is not None and not before.choosing.ended:
            raise HfftError("photos are being ranked already; wait for it")
        if not paths:
            raise DataError("choose some photos first")
        source = self.space.source(session, model)
        if why := self.unfit(session, model):
            raise DataError(why)
        if self.space.run(session, model) is None:
            raise DataError(f"{model} has no run record, so it cannot learn; choose or train another model")
        folder, left_out = self._copied(session, paths)
        told = {"model": source, "count": MOST, "places": [str(folder)], "cache_dir": str(cache_of(folder))}
        errand = Errand(self.space.trainings.folder(session, "next"), "next", told)
        choosing = self.space.trainings.queue.submit(errand)
        session.desks[KEY] = Labelling(folder, choosing, model or "", left_out=left_out)
        return choosing

    def follow(self, session: Session) -> Iterator[Labelling]:
        """Yield what is labelled again and again until it is ranked, and then once more with the photos."""
        found = self.of(session)
        if found is None:
            return
        for _ in self.space.trainings.queue.follow(found.choosing):
            session.seen = time.monotonic()
            if not found.choosing.ended:
                yield found
        found.collect()
        yield found

    def press(self, session: Session, turn: str, act: Callable[[Labelling], None]) -> bool:
        """Do what a press asks for, and return whether it was done: for the photo that the page showed alone.

        Args:
            session: of the visitor.
            turn: that the page showed, see `Labelling.turn`.
            act: what to do.

        Raises:
            DataError: there are no photos, or `act` says so.
        """
        found = self.of(session)
        if found is None:
            raise DataError("add photos first, and let them be ranked")
        with found.lock:
            if turn != found.turn:
                return False
            act(found)
            return True

    def picture(self, found: Labelling) -> str:
        """Return the photo that is asked about as an address of data; empty where there are none left."""
        if found.at is None or not found.photos:
            return ""
        image = open_upload(found.photos[found.at].image, self.space.limits, least=_SIDE)
        return address_of(image, "JPEG", _SIDE)

    def join(self, session: Session) -> str:
        """Put the labelled photos among the visitor's classes, and say what there is then.

        Photos that nothing was said about yet stay to be labelled; those that were passed over go.

        A visitor without images of their own gets copies of those that the model was trained on, so that it goes on
        knowing them.

        Raises:
            HfftError: nothing is labelled, a limit is exceeded, or a training is under way.
        """
        found = self.of(session)
        if found is None:
            raise DataError(_NO_LABEL)
        with session.changing, found.lock:
            return self._join(session, found)

    def _join(self, session: Session, found: Labelling) -> str:
        trainings = self.space.trainings
        if not found.labelled or not found.photos:
            raise DataError(_NO_LABEL)
        trainings.refuse_while_training(session)
        given = session.given or self._own(session, found.model)
        for label in sorted({*found.labelled.values()}):
            paths = [found.photos[number].image for number, said in sorted(found.labelled.items()) if said == label]
            place(given.uploaded, label, paths, given.folder, self.space.limits)
        session.given = given
        left = found.let_go()
        if not left:
            remove([found.folder], self.space.work)
            del session.desks[KEY]
        more = f" {count_of(left, 'photo is', 'photos are')} left to label." if left else ""
        return trainings.describe(session) + more

    def _copied(self, session: Session, paths: Sequence[str]) -> tuple[Path, list[str]]:
        """Copy photos into a folder of the visitor's own, each looked at first; their names are not used.

        Returns:
            The folder, and for each file that is left out why.
        """
        limits = self.space.limits
        if len(paths) > limits.images:
            raise DataError(f"{len(paths):,} photos are too many at a time; at most {limits.images:,} are allowed")
        folder, left_out = self.space.trainings.folder(session, "photos"), []
        for number, path in enumerate(paths):
            try:
                open_upload(path, limits, least=_SIDE)
            except DataError as error:
                left_out.append(str(error))
                continue
            shutil.copyfile(path, folder / f"{number:05d}{Path(path).suffix.lower() or '.jpg'}")
        if len(left_out) == len(paths):
            raise DataError(f"not one of these files can be used; the first: {left_out[0]}")
        return folder, left_out

    def _own(self, session: Session, model: str) -> Given:
        """Return images of the visitor's own: copies of those that one of their models was trained on, or none yet."""
        given = Given(self.space.trainings.folder(session, "images"))
        if model not in session.own:
            return given
        pictures = Pictures(data_options(session.own[model].images))
        names = class_names(pictures.classes)
        for split, named in pictures.gathered.splits.items():
            images = pictures.gathered.sets[split]
            for file, value, label in zip(images.files, images.values(), named.names, strict=True):
                with _bytes_of(value) as stream:
                    place_ = split, names[str(label)]
                    add(given.uploaded, given.folder, place_, stream, (_name_of(file), self.space.limits))
        return given


def _bytes_of(value: dict[str, Any]) -> IO[bytes]:
    return io.BytesIO(value["bytes"]) if value["bytes"] is not None else open(value["path"], "rb")


def _name_of(file: str) -> str:
    """Return a name with an ending that says an image; rows of a table have none."""
    return file if "." in file else f"{file}.png"
