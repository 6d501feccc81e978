"""Trainings that visitors start: their images, their options, their queue, and the model that comes of it."""

from __future__ import annotations

import inspect
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hfft.demo import ANIMALS, EMBEDDED_MODEL, SPLIT_SIZES
from hfft.errors import ArgumentError, DataError, HfftError, ModelError
from hfft.explain.pipeline import anatomy_of
from hfft.output_folder import RECORD
from hfft.planning.policies import check_policy, find_policy, installed_policies, resolve_policy
from hfft.plugin.contract import Anatomy
from hfft.report.card_metadata import plain_base_name
from hfft.report.record import read_record
from hfft.space.models import Models
from hfft.space.options import SpaceArguments
from hfft.space.trainings.pack import pack
from hfft.space.trainings.queue import Job, Training, Trainings
from hfft.space.trainings.sessions import KEPT, Given, OwnModel, Session, Tried, new_folder
from hfft.space.trainings.small_set import write_small_set
from hfft.space.uploads import class_name, frame, place, remove, unpack
from hfft.wording import count_of

ZIP, FILES = "Zip of class folders", "Files under class names"
BUILT_IN, SMALL = "Ten animals, built in", "A small set: four animals"
UPLOADED = (ZIP, FILES)
"""The sources that stand for the images that a visitor gave."""
SOURCES = (SMALL, *UPLOADED, BUILT_IN)
"""In the order in which they are offered."""
DEFAULT_POLICY = "last_block"
NO_IMAGES = "No images yet."
MOST_FRAMES = 100
"""Pictures of one recording; a page sends fewer."""
RECORDED = (
    "Pictures of one recording are alike, so an accuracy on those that are held back flatters: record each class more "
    "than once, in other places."
)

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


def describe_policy(policy: str | None) -> str:
    """Return what a policy (None: the default one) says of itself, its first paragraph; nothing where there is none."""
    try:
        function, _ = find_policy(policy or DEFAULT_POLICY)
    except HfftError:
        return ""
    return (inspect.getdoc(function) or "").partition("\n\n")[0]


def cache_of(folder: Path) -> Path:
    """Return where a visitor's activations lie, beside any folder that `VisitorTrainings.folder` made."""
    return folder.with_name("activations")


def _takes(policy: str) -> bool:
    try:
        resolve_policy(policy, _SOME_MODEL, _ENOUGH)
    except ArgumentError:
        return False
    return True


def _tried(training: Training) -> Tried:
    """Return what a training that is done came to on its validation images."""
    job = training.job
    assert isinstance(job, Job)
    record = read_record(job.folder / "run" / RECORD)
    found = record.metrics["validation"]
    right, chosen = round(found.values["accuracy"] * found.images), record.optimistic("validation")
    return Tried(job.images, job.base, job.policy, job.epochs, right, found.images, training.seconds, chosen)


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
        self._small: Given | None = None
        self._lock, self._keeping = threading.Lock(), threading.Lock()

    def small(self) -> Given | None:
        """Return the small set; None where the embedded images are not installed."""
        with self._lock:
            if self._small is None:
                try:
                    self._small = write_small_set(self.work / "small")
                except HfftError:
                    return None
            return self._small

    def given(self, session: Session, source: str) -> Given | None:
        """Return the images that a visitor trains on; None for the embedded ones, and where there are none yet.

        Args:
            session: of the visitor.
            source: one of `SOURCES`.
        """
        if source == SMALL:
            return self.small()
        return None if source == BUILT_IN else session.given

    def counts(self, session: Session, source: str) -> Counter[tuple[str, str]]:
        """Return how many images there are to train and to validate on, by split and class."""
        if source == BUILT_IN:
            return Counter(
                {(split, animal): size // len(ANIMALS) for split, size in SPLIT_SIZES.items() for animal in ANIMALS}
            )
        given = self.given(session, source)
        return given.uploaded.counts if given else Counter()

    def read_zip(self, session: Session, archive: str | None) -> str:
        """Unpack a zip of class folders, to be trained on; return what is in it.

        Raises:
            HfftError: there is none, it cannot be used, or a training is under way.
        """
        if not archive:
            raise DataError("choose a zip file first: one folder of images for each class")
        with session.changing:
            self.refuse_while_training(session)
            given = Given(self.folder(session, "images"))
            try:
                given.uploaded = unpack(archive, given.folder, self.limits)
            except BaseException:
                shutil.rmtree(given.folder, ignore_errors=True)
                raise
            session.given = given
            session.drop_unused()
            return self.describe(session)

    def add_files(self, session: Session, label: str, paths: Sequence[str | Path]) -> str:
        """Put uploaded files under a class, beside those that are there; return what is there now.

        Raises:
            HfftError: name or files are missing, a limit is exceeded, or a training is under way.
        """
        if not paths:
            raise DataError("choose the images of this class first")
        class_name(label or "")
        with session.changing:
            self.refuse_while_training(session)
            session.given = session.given or Given(self.folder(session, "images"))
            place(session.given.uploaded, label, paths, session.given.folder, self.limits)
            return self.describe(session)

    def add_frames(self, session: Session, label: str, frames: Sequence[str]) -> str:
        """Put what a camera recorded under a class, as `add_files` does with files.

        Args:
            session: of the visitor.
            label: of the class.
            frames: addresses of data.

        Raises:
            HfftError: as for `add_files`; or there are too many frames, or one is not a picture.
        """
        if len(frames) > MOST_FRAMES:
            raise DataError(f"a recording has at most {MOST_FRAMES} pictures")
        contents = [frame(each, self.limits) for each in frames]
        folder = new_folder(self.work, "uploads")
        try:
            for number, content in enumerate(contents):
                (folder / f"picture {number + 1}.jpg").write_bytes(content)
            with session.changing:
                self.add_files(session, label, sorted(folder.iterdir()))
                assert session.given is not None
                if RECORDED not in session.given.uploaded.notes:
                    session.given.uploaded.notes.append(RECORDED)
                return self.describe(session)
        finally:
            remove([folder], self.work)

    def describe(self, session: Session) -> str:
        """Say what there is to train on, and what was left out of it."""
        return session.given.uploaded.describe() if session.given else NO_IMAGES

    def clear_images(self, session: Session) -> str:
        """Let go of the images; those that a model was trained on stay with it."""
        with session.changing:
            self.refuse_while_training(session)
            session.given = None
            session.drop_unused()
            return self.describe(session)

    def start(self, session: Session, source: str, policy: str, epochs: float, model: str | None) -> Training:
        """Put a training into the queue.

        Args:
            session: of the visitor.
            source: one of `SOURCES`.
            policy: as ``--policy`` takes it.
            epochs: passes over the training images.
            model: folder or Hub id of the model that the page shows; training begins from its base. None where
                there is no model yet.

        Raises:
            HfftError: an option or the images cannot be used, or too many trainings are waiting.
        """
        with session.changing:
            self.refuse_while_training(session)
            self._check(source, policy, epochs, model)
            images = None if source == BUILT_IN else self._ready(session, source).folder
            return self._submit(session, images, (policy, epochs), model)

    def start_on(self, session: Session, images: Path, policy: str, epochs: float, model: str | None) -> Training:
        """Put a training on a list of images into the queue, as `start` does."""
        with session.changing:
            self.refuse_while_training(session)
            self._check(ZIP, policy, epochs, model)
            return self._submit(session, images, (policy, epochs), model)

    def _submit(self, session: Session, images: Path | None, what: tuple[str, float], model: str | None) -> Training:
        base = self.base(model)
        folder = self.folder(session, "run")
        job = Job(folder, cache_of(folder), images, what[0], round(what[1]), base, self.device or "")
        try:
            session.training = self.queue.submit(job)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return session.training

    def _ready(self, session: Session, source: str) -> Given:
        given = self.given(session, source)
        if given is None:
            raise DataError("choose images first: a zip of class folders, files under class names, or the ten animals")
        given.uploaded.check()
        return given

    def folder(self, session: Session, kind: str) -> Path:
        """Make a folder of the visitor's own that was never there before."""
        with self._lock:
            session.folder = session.folder or new_folder(self.work, "trainings")
            session.folders += 1
            folder = session.folder / f"{kind}-{session.folders}"
            folder.mkdir()
            return folder

    def refuse_while_training(self, session: Session) -> None:
        """Make sure that no training of this visitor is under way.

        Raises:
            HfftError: one is.
        """
        if session.training is not None and not session.training.ended:
            raise HfftError("you have a training already; wait for it, or cancel it")

    def _check(self, source: str, policy: str, epochs: float, model: str | None) -> None:
        check_policy(policy)
        if source not in SOURCES:
            raise DataError(f"the images must be one of: {'; '.join(SOURCES)}")
        if not 1 <= epochs <= self.options.max_epochs:
            raise DataError(f"the epochs must be from 1 to {self.options.max_epochs}")
        loaded = self.models.get(model) if model else self.models.pretrained(None)
        resolve_policy(policy, anatomy_of(loaded.classifier), round(epochs))

    def follow(self, session: Session, training: Training) -> Iterator[Training]:
        """Yield a training whenever something about it has changed; at its end the visitor has one model more."""
        before: tuple[Any, ...] = ()
        for now in self.queue.follow(training):
            session.seen = time.monotonic()
            state = (now.state, now.message, len(now.rows), now.station, now.share, round(now.seconds))
            if state != before and not now.ended:
                yield now
            before = state
        if training.state == "done":
            self._keep(session, training)
        yield training

    def kept(self, session: Session, training: Training) -> bool:
        """Whether the model of a training is one of the visitor's own already."""
        return any(own.run.parent == training.job.folder for own in session.own.values())

    def _keep(self, session: Session, training: Training) -> None:
        """Give a new model a name, and let go of the oldest where there are too many; once for each training."""
        with self._keeping:  # a page and a program may follow the same training
            if not self.kept(session, training):
                self._take_in(session, training)

    def _take_in(self, session: Session, training: Training) -> None:
        job = training.job
        assert isinstance(job, Job)
        run = job.folder / "run"
        number = job.folder.name.rpartition("-")[2]
        name = f"your model {number}: {job.policy}, {count_of(job.epochs, 'epoch')}"
        session.own[name] = OwnModel(run, job.images)
        session.tried.append(_tried(training))
        session.shown = name
        for oldest in list(session.own)[:-KEPT]:
            old = session.own.pop(oldest)
            self.models.forget(str(old.run))
            remove([old.run.parent], self.work)
        session.drop_unused()

    def end(self, session: Session) -> None:
        """Cancel a visitor's training and remove all that was given and trained."""
        if session.training is not None:
            self.queue.cancel(session.training)
        for own in session.own.values():
            self.models.forget(str(own.run))
        remove([session.folder], self.work)

    def base(self, source: str | None) -> str | None:
        """Return the pretrained model that a training begins from: the base of a model.

        Args:
            source: folder or Hub id of that model; None for no model.

        Returns:
            A Hub id or a folder; None for the embedded model, which is the base where there is no model yet.

        Raises:
            HfftError: it is not known, or not here any more.
        """
        if source is None:
            return None
        record = self.models.read(source).record
        base = record.base
        if base.id == EMBEDDED_MODEL:
            return None
        # A stranger's record may name any folder of this machine.
        if not base.on_hub and not (Path(source).is_dir() and Path(base.id).is_dir()):
            name = plain_base_name(record)
            raise ModelError(f"the base of this model, {name}, is not here any more; choose another model above")
        return base.id

    def download(self, session: Session, name: str | None) -> Path:
        """Return a zip of one of the visitor's own models, without the server's own paths.

        Raises:
            DataError: there is no such model.
        """
        own = session.own.get(name or "")
        if own is None:
            raise DataError("train a model first, or choose one of your own above; then it can be downloaded")
        return pack(own.run)
