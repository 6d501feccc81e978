"""Trainings that visitors start: their images, their options, their queue, and the model that comes of it."""

from __future__ import annotations

import inspect
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hfft.demo import EMBEDDED_MODEL
from hfft.errors import ArgumentError, DataError, HfftError, ModelError
from hfft.planning.policies import find_policy, installed_policies, specify
from hfft.plugin.contract import Anatomy
from hfft.space.models import Models
from hfft.space.options import SpaceArguments
from hfft.space.trainings.queue import Job, Training, Trainings
from hfft.space.trainings.sessions import Session, new_folder
from hfft.space.uploads import class_name, place, remove, unpack

SOURCES = ("Zip of class folders", "Files under class names", "The embedded ten animals")
DEFAULT_POLICY = "last_block"

_SOME_MODEL = Anatomy(("stem",), (("1",), ("2",), ("3",)), (), ("head",))
_ARGUMENTS = ("1", "2", "first", "middle", "last")
_ENOUGH = 10.0  # epochs, so that no policy lacks room for its phases


def policy_choices() -> list[str]:
    """Return the installed policies, the default one first; one that needs an argument with each that it takes.

    Whether a policy fits a model is said when it is trained: the model is not loaded here.

    Raises:
        PluginError: a policy does not load.
    """
    found = [
        form
        for name in installed_policies()
        for form in ([name] if _takes(name) else [f"{name}:{value}" for value in _ARGUMENTS])
        if _takes(form)
    ]
    return sorted(found, key=lambda form: form != DEFAULT_POLICY)


def describe_policy(policy: str) -> str:
    """Return what a policy says of itself, in a line or two; nothing where there is no such policy."""
    try:
        function, _ = find_policy(policy)
    except HfftError:
        return ""
    return inspect.getdoc(function) or ""


def _takes(policy: str) -> bool:
    try:
        specify(policy, _SOME_MODEL, _ENOUGH)
    except ArgumentError:
        return False
    return True


class VisitorTrainings:
    """The queue of trainings, and what visitors may put into it.

    Args:
        options: the limits.
        work: folder for uploads (``uploads/``) and trainings (``trainings/``).
        models: that are served; a training begins from the base of the one in use.
        device: ``cpu`` to keep off a GPU.
    """

    def __init__(self, options: SpaceArguments, work: Path, models: Models, device: str | None = None) -> None:
        self.queue = Trainings(options.max_minutes, options.max_waiting)
        self.options = options
        self.limits = options.limits
        self.work = work
        self.models = models
        self.device = device

    def add_files(self, session: Session, label: str, paths: Sequence[str]) -> str:
        """Put uploaded files under a class; return what is there now.

        Raises:
            DataError: name or files are missing.
        """
        name = class_name(label or "")
        if not paths:
            raise DataError("choose the images of this class first")
        session.files.setdefault(name, []).extend(paths)
        return self.describe_files(session)

    def describe_files(self, session: Session) -> str:
        """Return the classes and how many files each has."""
        counts = [f"{name} ({len(paths)})" for name, paths in session.files.items()]
        return ("Ready to train on: " + ", ".join(counts) + ".") if counts else "No files yet."

    def clear_files(self, session: Session) -> str:
        """Remove the files that were uploaded under class names."""
        remove([path for paths in session.files.values() for path in paths], self.work)
        session.files = {}
        return self.describe_files(session)

    def start(self, session: Session, source: str, archive: str | None, policy: str, epochs: float) -> Training:
        """Unpack what was uploaded and put a training into the queue; the uploads are removed.

        Raises:
            HfftError: an option or the images cannot be used, or too many trainings are waiting.
        """
        if session.training is not None and not session.training.ended:
            raise HfftError("you have a training already; wait for it, or cancel it")
        self._check(source, policy, epochs)
        folder = new_folder(self.work, "trainings")
        try:
            if source == SOURCES[0]:
                if not archive:
                    raise DataError("choose a zip file first: one folder of images for each class")
                unpack(archive, folder / "images", self.limits)
            elif source == SOURCES[1]:
                place(session.files, folder / "images", self.limits)
            job = Job(folder, policy, round(epochs), self.base(session), source == SOURCES[2], self.device or "")
            session.training = self.queue.submit(job)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            remove([archive], self.work)
        if source == SOURCES[1]:
            self.clear_files(session)
        return session.training

    def _check(self, source: str, policy: str, epochs: float) -> None:
        find_policy(policy)
        if source not in SOURCES:
            raise DataError(f"the images must be one of: {'; '.join(SOURCES)}")
        if not 1 <= epochs <= self.options.max_epochs:
            raise DataError(f"the epochs must be from 1 to {self.options.max_epochs}")

    def follow(self, session: Session, training: Training) -> Iterator[Training]:
        """Yield a training whenever something about it has changed; at its end the visitor uses the new model."""
        before: tuple[Any, ...] = ()
        for now in self.queue.follow(training):
            session.seen = time.monotonic()
            state = (now.state, now.message, len(now.rows), now.share, round(now.seconds))
            if state != before and not now.ended:
                yield now
            before = state
        if training.state == "done":
            old, session.own = session.own, training.job.folder / "run"
            session.source, session.map = str(session.own), None
            if old is not None:
                self.models.forget(str(old))
                remove([old.parent], self.work)
        yield training

    def base(self, session: Session) -> str | None:
        """Return the pretrained model that a visitor's training begins from: the base of the model in use.

        Returns:
            A Hub id or a folder; None for the embedded model, which is the base where there is no model yet.

        Raises:
            HfftError: it is not known, or not here any more.
        """
        source = session.source or self.models.default()
        if source is None:
            return None
        base = self.models.read(source).record.base
        if base.id == EMBEDDED_MODEL:
            return None
        # A stranger's record may name any folder of this machine.
        if not base.on_hub and not (Path(source).is_dir() and Path(base.id).is_dir()):
            raise ModelError(f"the base of this model, {base.id}, is not here any more; choose another model above")
        return base.id

    def download(self, session: Session) -> Path:
        """Return a zip of the visitor's own model.

        Raises:
            DataError: there is none.
        """
        if session.own is None:
            raise DataError("train a model first; then it can be downloaded")
        return Path(shutil.make_archive(str(new_folder(self.work, "uploads") / "hfft-model"), "zip", session.own))
