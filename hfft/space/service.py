"""What the Space does when someone presses a button, free of any layout."""

from __future__ import annotations

import csv
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hfft.errors import DataError, HfftError, ModelError
from hfft.explain.gradcam import overlay
from hfft.inference.classifier import Prediction
from hfft.inference.runs import FinishedRun, embedded_examples
from hfft.space.models import Loaded, Models
from hfft.space.options import SpaceArguments
from hfft.space.quiz import Question, make_quiz
from hfft.space.trainings.sessions import Session, new_folder
from hfft.space.trainings.visitors import VisitorTrainings
from hfft.space.uploads import Limits, open_upload, remove

NO_MODEL = "There is no finished run yet. Make one under Fine-tune: the embedded ten animals take a few minutes."
YOURS = "your new model"


class Space:
    """Everything behind the page.

    Args:
        options: what is served, and the limits.
        work: folder for uploads (``uploads/``) and trainings (``trainings/``).
        device: where models run, as torch names it; by default a GPU where there is one.
    """

    def __init__(self, options: SpaceArguments, work: Path, device: str | None = None) -> None:
        self.options = options
        self.limits = options.limits
        self.work = work
        self.models = Models(options.model, Path(options.outputs), device)
        self.trainings = VisitorTrainings(options, work, self.models, device)
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
            self.trainings.queue.cancel(session.training)
        self.trainings.clear_files(session)
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

    def image(self, path: str | None, least: int | None = None) -> Image.Image:
        """Return an uploaded image.

        Args:
            path: of the file.
            least: as for `hfft.data.images.open_image`.

        Raises:
            DataError: there is none, or it cannot be used.
        """
        if not path:
            raise DataError("choose an image first: upload one, paste one, or take an example")
        return open_upload(path, self.limits, least=least)

    def classify(self, session: Session, path: str | None, about: str | None = None) -> tuple[Prediction, list[str]]:
        """Label an image and remember its activation map; return the prediction and all labels."""
        loaded = self.loaded(session)
        image = self.image(path, loaded.classifier.pixels.least)
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
        try:
            rows, gallery = classify_files(loaded, paths, self.limits)
        finally:
            remove(paths, self.work)
        return rows, gallery, write_sheet(new_folder(self.work, "uploads") / "predictions.csv", rows)

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
            trace = loaded.pipeline(self.image(path, loaded.classifier.pixels.least))
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
        for name in names[:8]:
            loaded = self.models.get(self._source(session, name))
            if loaded.run is None:
                raise DataError(f"{name} has no run record, so it cannot be compared")
            runs.append(FinishedRun(loaded.run.folder, name, loaded.run.record, loaded.run.rows))
            least = loaded.classifier.pixels.least
            found = loaded.classify([self.image(path, least)])[0] if path else None
            answers.append(f"{found.label} {found.probability:.1%}" if found else "-")
        return runs, answers


_THUMBNAIL = 400  # pixels of a picture's longer side in the gallery


def classify_files(
    loaded: Loaded, paths: Sequence[str], limits: Limits
) -> tuple[list[Prediction], list[tuple[Image.Image, str]]]:
    """Label files one by one; what cannot be read gets a row that says why.

    Returns:
        A prediction for each file, and the readable ones as small pictures with their captions.

    Raises:
        DataError: there are too many.
    """
    if len(paths) > limits.batch:
        raise DataError(f"{len(paths)} images are too many at a time; at most {limits.batch} are allowed")
    rows: list[Prediction] = []
    gallery: list[tuple[Image.Image, str]] = []
    for path in paths:
        name = Path(path).name
        try:
            image = open_upload(path, limits, least=loaded.classifier.pixels.least)
        except DataError as error:
            rows.append(Prediction(name, error=str(error)))
            continue
        (found,) = loaded.classify([image])
        rows.append(Prediction(name, found.label, found.probability, found.top, found.error))
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        gallery.append((image, f"{name}: {found.label} {found.probability:.1%}"))
    return rows, gallery


def write_sheet(path: Path, rows: Sequence[Prediction]) -> Path:
    """Write predictions as CSV with the columns file, label, probability (0 to 1) and error; return the path."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "probability", "error"])
        # A leading quote keeps a spreadsheet from running a file name as a formula.
        shown = [("'" + row.file if row.file[:1] in "=+-@" else row.file, row) for row in rows]
        writer.writerows([name, row.label, f"{row.probability:.6f}", row.error] for name, row in shown)
    return path
