"""What the Space does when someone presses a button, free of any layout."""

from __future__ import annotations

import csv
import math
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from hfft.errors import DataError, HfftError, ModelError
from hfft.gradcam import ActivationMap, overlay
from hfft.live import Job, Training, Trainings
from hfft.predict import Prediction
from hfft.quiz import Question, make_quiz
from hfft.runs import FinishedRun, embedded_examples
from hfft.space_arguments import SpaceArguments
from hfft.space_models import Loaded, Models
from hfft.uploads import open_upload, place, remove, unpack

NO_MODEL = "There is no finished run yet. Make one under Fine-tune: the embedded ten animals take a few minutes."
YOURS = "your new model"
SOURCES = ("Zip of class folders", "Files under class names", "The embedded ten animals")
POLICIES = ("last_block", "head", "last_n:2", "full")


@dataclass
class Session:
    """One visitor.

    Args:
        source: the model that this visitor uses; None for the served one.
        own: folder of the model that this visitor trained.
        files: uploaded for training, by class.
        training: that this visitor started last.
        map: of the image classified last, with the image.
        seen: when something was last asked for, on the monotonic clock.
    """

    source: str | None = None
    own: Path | None = None
    files: dict[str, list[str]] = field(default_factory=dict)
    training: Training | None = None
    map: tuple[Image.Image, ActivationMap | None] | None = None
    seen: float = field(default_factory=time.monotonic)


class Space:
    """Everything behind the page.

    Args:
        options: what is served, and the limits.
        work: folder for uploads (``uploads/``) and trainings (``trainings/``).
    """

    def __init__(self, options: SpaceArguments, work: Path, device: str | None = None) -> None:
        self.options = options
        self.limits = options.limits
        self.work = work
        self.device = device
        self.models = Models(options.model, Path(options.outputs), device)
        self.trainings = Trainings(options.max_minutes, options.max_waiting)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    # Visitors ------------------------------------------------------------------------------------------

    def session(self, key: str | None) -> Session:
        """Return a visitor's session; sessions that nobody used for long are ended here."""
        with self._lock:
            now, longest = time.monotonic(), self.options.keep_minutes * 60
            old = [name for name, session in self._sessions.items() if now - session.seen > longest]
            session = self._sessions.setdefault(key or "", Session())
            session.seen = now
        for name in old:
            if name != (key or ""):
                self.leave(name)
        return session

    def leave(self, key: str | None) -> None:
        """End a visitor's session: cancel the training, remove uploads and the trained model."""
        with self._lock:
            session = self._sessions.pop(key or "", None)
        if session is None:
            return
        if session.training is not None:
            self.trainings.cancel(session.training)
        self.clear_files(session)
        if session.own is not None:
            self.models.forget(str(session.own))
            remove([session.own.parent], self.work)

    def choices(self, session: Session) -> list[str]:
        """Return the names of the models that a visitor may choose."""
        return ([YOURS] if session.own else []) + list(self.models.runs())

    def current(self, session: Session) -> str:
        """Return the name of the model that a visitor uses; empty where there is none."""
        if session.own is not None and session.source == str(session.own):
            return YOURS
        source = session.source or self.models.default()
        return next((name for name, place in self.models.runs().items() if place == source), "")

    def choose(self, session: Session, name: str) -> None:
        """Use another model from now on.

        Raises:
            DataError: there is no model of that name.
        """
        session.source = self._source(session, name)
        session.map = None

    def _source(self, session: Session, name: str) -> str:
        if name == YOURS and session.own is not None:
            return str(session.own)
        runs = self.models.runs()
        if name not in runs:
            raise DataError(f"there is no model called {name[:80]!r}; choose one from the list")
        return runs[name]

    def loaded(self, session: Session) -> Loaded:
        """Return the model that a visitor uses.

        Raises:
            HfftError: there is none, or it cannot be loaded.
        """
        source = session.source or self.models.default()
        if source is None:
            raise ModelError(NO_MODEL)
        return self.models.get(source)

    # Images --------------------------------------------------------------------------------------------

    def image(self, path: str | None) -> Image.Image:
        """Return an uploaded image.

        Raises:
            DataError: there is none, or it cannot be used.
        """
        if not path:
            raise DataError("choose an image first: upload one, paste one, or take an example")
        return open_upload(path, self.limits)

    def classify(self, session: Session, path: str | None, about: str | None = None) -> tuple[Prediction, list[str]]:
        """Label an image and remember its activation map; return the prediction and all labels."""
        image, loaded = self.image(path), self.loaded(session)
        (prediction,) = loaded.classify([image])
        if prediction.error:
            raise DataError(prediction.error)
        session.map = (image, loaded.map(image, about))
        return prediction, list(loaded.classifier.labels)

    def overlay(self, session: Session, opacity: float) -> Image.Image | None:
        """Return the image classified last under its activation map."""
        if session.map is None:
            return None
        image, found = session.map
        side = max(image.size)
        if side < 320:  # so small a picture would hide the map's shape
            image = image.resize((image.width * 320 // side, image.height * 320 // side), Image.Resampling.NEAREST)
        picture = image.copy() if found is None else overlay(image, found.values, opacity)
        # Gradio names its files after their content and writes them in place: two visitors with the same
        # picture would read each other's half-written file.
        picture.info = {"visit": uuid.uuid4().hex}
        return picture

    def classify_batch(self, session: Session, paths: Sequence[str]) -> tuple[list[Prediction], list[Any], Path]:
        """Label many files; return the predictions, a gallery of the readable ones, and a CSV. The files are removed.

        Raises:
            DataError: there are none, or too many.
        """
        loaded = self.loaded(session)
        if not paths:
            raise DataError("choose some images first")
        if len(paths) > self.limits.batch:
            remove(paths, self.work)
            raise DataError(f"{len(paths)} images are too many at a time; at most {self.limits.batch} are allowed")
        rows: list[Prediction] = []
        gallery: list[Any] = []
        for path in paths:
            name = Path(path).name
            try:
                image = open_upload(path, self.limits)
            except DataError as error:
                rows.append(Prediction(name, error=str(error)))
                continue
            (found,) = loaded.classify([image])
            rows.append(Prediction(name, found.label, found.probability, found.top, found.error))
            image.thumbnail((400, 400))
            gallery.append((image, f"{name}: {found.label} {found.probability:.1%}"))
        remove(paths, self.work)
        return rows, gallery, self._table_file(rows)

    def _table_file(self, rows: Sequence[Prediction]) -> Path:
        path = self._new("uploads") / "predictions.csv"
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "label", "probability", "error"])
            # A leading quote keeps a spreadsheet from running a file name as a formula.
            shown = [("'" + row.file if row.file[:1] in "=+-@" else row.file, row) for row in rows]
            writer.writerows([name, row.label, f"{row.probability:.6f}", row.error] for name, row in shown)
        return path

    def examples(self) -> list[str]:
        """Return files of example images: of the served run's evaluation, else the embedded animals."""
        folder = self.work / "examples"
        if not folder.exists():
            folder.mkdir(parents=True)
            for place_, (label, image) in enumerate(self._example_images()):
                image.save(folder / f"{place_}-{''.join(c for c in label if c.isalnum())[:20] or 'image'}.png")
        return [str(path) for path in sorted(folder.iterdir())]

    def _example_images(self) -> list[tuple[str, Image.Image]]:
        try:
            loaded = self.loaded(Session())
            found: dict[str, Image.Image] = {}
            if loaded.run is not None and loaded.images is not None:
                for answer in loaded.answers():
                    if answer.label not in found and (image := loaded.images.get(answer.file)):
                        found[answer.label] = image
                    if len(found) == 5:
                        break
            if found:
                return list(found.items())
        except HfftError:
            pass
        try:
            return embedded_examples()
        except HfftError:
            return []

    # Learning and comparing ----------------------------------------------------------------------------

    def run(self, session: Session) -> FinishedRun | None:
        """Return the run of the model that a visitor uses; None where there is no model or no record."""
        if not session.source and self.models.default() is None:
            return None
        return self.loaded(session).run

    def prefix_seconds(self, session: Session) -> float | None:
        """Return what one image takes in the frozen part on this machine; None where that cannot be measured."""
        loaded = self.loaded(session)
        if loaded.prefix_seconds is None and (path := next(iter(self.examples()), None)):
            trace = loaded.pipeline(self.image(path))
            loaded.prefix_seconds = trace.stages[2].seconds
        return loaded.prefix_seconds

    def quiz(self, session: Session) -> tuple[Question, ...]:
        """Return the questions about the method and the visitor's model."""
        try:
            return make_quiz(self.run(session))
        except HfftError:
            return make_quiz(None)

    def compare(self, session: Session, names: Sequence[str], path: str | None) -> tuple[list[FinishedRun], list[str]]:
        """Return runs, and what each of them says about an image.

        Raises:
            HfftError: a name is unknown, or a run cannot be loaded.
        """
        runs, answers = [], []
        image = self.image(path) if path else None
        for name in names[:8]:
            loaded = self.models.get(self._source(session, name))
            if loaded.run is None:
                raise DataError(f"{name} has no run record, so it cannot be compared")
            runs.append(FinishedRun(loaded.run.folder, name, loaded.run.record, loaded.run.rows))
            found = loaded.classify([image])[0] if image else None
            answers.append(f"{found.label} {found.probability:.1%}" if found else "-")
        return runs, answers

    # Training ------------------------------------------------------------------------------------------

    def add_files(self, session: Session, label: str, paths: Sequence[str]) -> str:
        """Put uploaded files under a class; return what is there now.

        Raises:
            DataError: name or files are missing.
        """
        from hfft.uploads import class_name

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
        if policy not in POLICIES:
            raise DataError(f"the policy must be one of {', '.join(POLICIES)}")
        if source not in SOURCES:
            raise DataError(f"the images must be one of: {'; '.join(SOURCES)}")
        if not 1 <= epochs <= self.options.max_epochs:
            raise DataError(f"the epochs must be from 1 to {self.options.max_epochs}")
        folder = self._new("trainings")
        try:
            if source == SOURCES[0]:
                if not archive:
                    raise DataError("choose a zip file first: one folder of images for each class")
                unpack(archive, folder / "images", self.limits)
            elif source == SOURCES[1]:
                place(session.files, folder / "images", self.limits)
            job = Job(folder, policy, round(epochs), self.base(), source == SOURCES[2], self.device or "")
            session.training = self.trainings.submit(job)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            remove([archive], self.work)
        if source == SOURCES[1]:
            self.clear_files(session)
        return session.training

    def follow(self, session: Session, training: Training) -> Iterator[Training]:
        """Yield a training whenever something about it has changed; at its end the visitor uses the new model."""
        before: tuple[Any, ...] = ()
        for now in self.trainings.follow(training):
            session.seen = time.monotonic()
            state = (now.state, now.message, len(now.rows), round(now.seconds))
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

    def base(self) -> str | None:
        """Return the pretrained model that trainings begin from: the served run's base; None for the embedded one."""
        source = self.models.default()
        try:
            record = self.models.read(source).record if source else None
        except HfftError:
            return None
        if record is None or not (record.base.on_hub or Path(record.base.id).is_dir()):
            return None
        return record.base.id

    def download(self, session: Session) -> Path:
        """Return a zip of the visitor's own model.

        Raises:
            DataError: there is none.
        """
        if session.own is None:
            raise DataError("train a model first; then it can be downloaded")
        return Path(shutil.make_archive(str(self._new("uploads") / "hfft-model"), "zip", session.own))

    def _new(self, kind: str) -> Path:
        folder = self.work / kind / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder


def curve_table(runs: Sequence[tuple[str, Sequence[Any]]]) -> pd.DataFrame:
    """Return the epochs of runs in long form: epoch, value, series (loss or accuracy), run."""
    rows = []
    for name, epochs in runs:
        for row in epochs:
            for series, value in (
                ("training loss", row.train_loss),
                ("validation loss", row.eval_loss),
                ("accuracy", row.accuracy),
            ):
                if math.isfinite(value):
                    rows.append((row.epoch, value, series, name))
    return pd.DataFrame(rows, columns=["epoch", "value", "series", "run"])
