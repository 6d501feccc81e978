"""What the Space does when someone presses a button, free of any layout."""

from __future__ import annotations

import csv
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from hfft.errors import DataError, HfftError, ModelError
from hfft.explain.gradcam import ActivationMap
from hfft.inference.classifier import Prediction
from hfft.inference.runs import FinishedRun, embedded_examples
from hfft.space.models import Loaded, Models
from hfft.space.options import SpaceArguments
from hfft.space.quiz import Item, make_quiz
from hfft.space.trainings.sessions import Session, Visits
from hfft.space.trainings.visitors import VisitorTrainings
from hfft.space.uploads import Limits, open_upload
from hfft.tasks.contract import Task
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.trust.known import Neighbour

NO_MODEL = "There is no finished run yet. Make one under Fine-tune: press Train."
GONE = "the model {!r} is not here any more; train it again, or choose another: {}"
_EXAMPLES = 5
COMPARED = 8  # runs that are compared at once
_SWEEP = 60.0  # seconds between looks for visits that are over


class Space:
    """Everything behind the page.

    Every request names the model that its page shows. A model that is not here any more is an error, and never
    replaced by another: an answer of the wrong model looks like any other answer.

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
        self.visits = Visits(options.keep_minutes, self.trainings.end)
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def open(self) -> None:
        """Make a worker ready for the first training, and end visits whose time is over from now on."""
        self.trainings.queue.prepare()
        threading.Thread(target=self._sweep, name="hfft-visits", daemon=True).start()

    def close(self) -> None:
        """End all trainings."""
        self._closed.set()
        self.trainings.queue.stop()

    def _sweep(self) -> None:
        while not self._closed.wait(_SWEEP):
            self.visits.sweep()
            self.models.rest(self.options.keep_minutes * 60)

    # Models --------------------------------------------------------------------------------------------

    def choices(self, session: Session) -> list[str]:
        """Return the names of the models that a visitor may choose, the newest of the visitor's own first."""
        return [*reversed(session.own), *self.models.runs()]

    def current(self, session: Session) -> str:
        """Return the model that a page shows when it is opened: the one chosen last, else the served one; else none."""
        names = self.choices(session)
        return session.shown if session.shown in names else next(iter(self.models.runs()), "")

    def source(self, session: Session, name: str | None) -> str:
        """Return the folder or Hub id of the model that a page shows.

        Raises:
            ModelError: there is none of that name (any more).
        """
        if name in session.own:
            return str(session.own[name].run)
        runs = self.models.runs()
        if name in runs:
            return runs[name]
        others = ", ".join(self.choices(session))
        if name:
            raise ModelError(GONE.format(name[:80], others or NO_MODEL))
        raise ModelError("choose a model first" if others else NO_MODEL)

    def loaded(self, session: Session, name: str | None) -> Loaded:
        """Return the model that a page shows.

        Raises:
            HfftError: there is none of that name (any more), or it cannot be loaded.
        """
        return self.models.get(self.source(session, name))

    def loaded_if_any(self, session: Session, name: str | None) -> Loaded | None:
        """Return the model that a page shows; None where it names none, and none can be used yet.

        Raises:
            HfftError: there is none of that name (any more), or it cannot be loaded.
        """
        try:
            return self.loaded(session, name)
        except ModelError:
            if name:
                raise
            return None

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

    def classify(
        self, session: Session, name: str | None, path: str | None, about: str | None = None
    ) -> tuple[Image.Image, Prediction, ActivationMap | None, str]:
        """Label an image; return it, the prediction, where the evidence for a label lies, and which label that is.

        Args:
            session: of the visitor.
            name: of the model that the page shows.
            path: of the uploaded image.
            about: the label or target to explain; by default the most probable one, or the first.

        Raises:
            HfftError: there is no such model, or the image cannot be used.
        """
        loaded = self.loaded(session, name)
        image = self.image(path, loaded.classifier.pixels.least)
        (prediction,) = loaded.classify([image])
        if prediction.error:
            raise DataError(prediction.error)
        about = about if about in loaded.classifier.labels else loaded.bars(prediction)[0].label
        return image, prediction, loaded.map(image, about), about

    def nearest(
        self, session: Session, name: str | None, found: Prediction
    ) -> list[tuple[Neighbour, Image.Image | None]]:
        """Return the training images nearest to an unknown image, with their pictures where those are still there."""
        if not found.unknown:
            return []
        images = self.loaded(session, name).images
        return [(each, images.trained_on(each.file) if images else None) for each in found.nearest]

    def classify_batch(
        self, session: Session, name: str | None, paths: Sequence[str]
    ) -> tuple[list[Prediction], list[tuple[Image.Image, str]], Path]:
        """Label many files; return the predictions, a gallery of the readable ones, and a CSV.

        Raises:
            DataError: there are none, or too many.
        """
        if not paths:
            raise DataError("choose some images first")
        loaded = self.loaded(session, name)
        rows, gallery = classify_files(loaded, paths, self.limits)
        path = self.trainings.folder(session, "predictions") / "predictions.csv"
        return rows, gallery, write_sheet(path, rows, loaded.classifier.task, loaded.classifier.labels)

    def examples(self, session: Session, name: str | None) -> list[tuple[str, str]]:
        """Return files and labels of a few images that a model was evaluated on; none where they are not known.

        Raises:
            HfftError: there is no such model (any more).
        """
        source = self.source(session, name)
        if name in session.own:  # a visitor's images, which go with the model
            folder = session.own[name].run.with_name("examples")
        else:
            told = f"{source} {self.models.mark(source)}"
            folder = self.work / "examples" / hashlib.sha256(told.encode()).hexdigest()[:16]
        return self._written(folder, lambda: _evaluated_images(self.models.get(source)))

    def offered(self, session: Session, name: str | None) -> list[tuple[str, str]]:
        """Return files and labels of images to try: `examples`, else some of the embedded animals; and a stranger."""
        try:
            examples = self.work / "examples"
            found = (name and self.examples(session, name)) or self._written(examples / "embedded", embedded_examples)
            return [*found, *self._written(examples / "stranger", _stranger)]
        except HfftError:
            return []

    def _written(self, folder: Path, images: Callable[[], Sequence[tuple[str, Image.Image]]]) -> list[tuple[str, str]]:
        """Return files and labels of images that are written to a folder where they are not there yet."""
        with self._lock:
            if not (folder / _LABELS).exists():
                _write_examples(images(), folder)
        labels = json.loads((folder / _LABELS).read_text(encoding="utf-8"))
        return [(str(folder / f"{place}.png"), label) for place, label in enumerate(labels)]

    # Learning and comparing ----------------------------------------------------------------------------

    def run(self, session: Session, name: str | None) -> FinishedRun | None:
        """Return the run of a model, under the name that the page shows; None where it has no record."""
        run = self.loaded(session, name).run
        return run and FinishedRun(run.folder, name or run.name, run.record, run.rows)

    def prefix_seconds(self, session: Session, name: str | None) -> float | None:
        """Return what one image takes in the frozen part on this machine; None where that cannot be measured."""
        loaded = self.loaded(session, name)
        if loaded.prefix_seconds is None and (example := next(iter(self.examples(session, name)), None)):
            image = self.image(example[0], loaded.classifier.pixels.least)
            loaded.pipeline(image)  # the first pass through a model is not like the others
            loaded.prefix_seconds = loaded.pipeline(image).stages[2].seconds
        return loaded.prefix_seconds

    def quiz(self, session: Session, name: str | None) -> tuple[Item, ...]:
        """Return the questions about the method and the visitor's model."""
        try:
            return make_quiz(self.run(session, name))
        except HfftError:
            return make_quiz(None)

    def compare(self, session: Session, names: Sequence[str], path: str | None) -> tuple[list[FinishedRun], list[str]]:
        """Return runs, each once, and what each of them says about an image.

        Raises:
            HfftError: a name is unknown, or a run cannot be loaded.
        """
        names = list(dict.fromkeys(names))
        if len(names) > COMPARED:
            raise DataError(f"{len(names)} runs are too many to compare; choose up to {COMPARED}")
        runs, answers = [], []
        for name in names:
            loaded = self.models.get(self.source(session, name))
            if loaded.run is None:
                raise DataError(f"{name} has no run record, so it cannot be compared")
            runs.append(FinishedRun(loaded.run.folder, name, loaded.run.record, loaded.run.rows))
            least = loaded.classifier.pixels.least
            found = loaded.classify([self.image(path, least)])[0] if path else None
            answers.append(said(found) if found else "-")
        return runs, answers


def _evaluated_images(loaded: Loaded) -> list[tuple[str, Image.Image]]:
    """Return an image of each of a few classes among those that a model was evaluated on."""
    found: dict[str, Image.Image] = {}
    for answer in loaded.answers() if loaded.images is not None else []:
        if answer.label not in found and loaded.images and (image := loaded.images.get(answer.file)):
            found[answer.label] = image
        if len(found) == _EXAMPLES:
            break
    return list(found.items())


def _write_examples(images: Sequence[tuple[str, Image.Image]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for place, (_, image) in enumerate(images):
        image.thumbnail((_SIDE, _SIDE))
        image.save(folder / f"{place}.png")
    # Last, so that images without it are written again; and apart, since a file cannot be called by every label.
    (folder / _LABELS).write_text(json.dumps([label for label, _ in images]), encoding="utf-8")


def _stranger() -> list[tuple[str, Image.Image]]:
    """Return a picture that is of none of the classes, to see what a model says of such a one."""
    board = Image.new("L", (8, 8))
    board.putdata([255 * ((place + place // 8) % 2) for place in range(64)])
    return [("chessboard", board.resize((224, 224), Image.Resampling.NEAREST).convert("RGB"))]


_LABELS = "labels.json"  # beside examples, in their order
_SIDE = 1024  # pixels of an example's longer side
THUMBNAIL = 400
"""Pixels of a picture's longer side in a gallery."""


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
        rows.append(replace(found, file=name))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        gallery.append((image, f"{name}: {said(found)}"))
    return rows, gallery


NONE = "none of these"
"""What an image is called that is unlike all training images."""


def said(found: Prediction) -> str:
    """Say in a few words what a model makes of an image."""
    if found.values or found.labels is not None:
        return found.answer.headline
    answer = f"{found.shown.label} {found.shown.said}"
    return f"{NONE} (at most {answer})" if found.unknown else answer


def write_sheet(path: Path, rows: Sequence[Prediction], task: Task = SINGLE_LABEL, labels: Sequence[str] = ()) -> Path:
    """Write predictions as CSV and return the path.

    The columns are file, what the task names an answer by (label and probability, 0 to 1), error, and where the model
    came with its training images, unknown_score (above 1 is unknown) and unknown.
    """
    heads = task.heads(labels, 1)
    scored = any(row.unknown_score is not None for row in rows)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", *map(_text, heads), "error", *(["unknown_score", "unknown"] * scored)])
        for row in rows:
            score = ["" if row.unknown_score is None else f"{row.unknown_score:.4f}", str(bool(row.unknown)).lower()]
            cells = [""] * len(heads) if row.error else task.cells(replace(row.answer, top=row.top[:1]))
            writer.writerow([_text(row.file), *map(_text, cells), row.error, *(score * scored)])
    return path


def _text(cell: str) -> str:
    """Return a cell that no spreadsheet runs as a formula: names get a leading quote, and numbers stay."""
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell
    return cell
