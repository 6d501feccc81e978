"""How good a finished model is on labelled images: figures for people and files for programs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from hfft.arguments import CheckpointArguments, DataArguments, EvaluateArguments
from hfft.bars import bar
from hfft.data.images import ImageSet
from hfft.data.labels import NamedImages, of_folders
from hfft.data.layout import composed, pick_splits
from hfft.data.load import open_source
from hfft.data.preprocessing import PixelDataset, collate
from hfft.data.readers.folders import read_split_folder
from hfft.data.sampling import sample
from hfft.errors import ArgumentError, DataError, HfftError, OutputError, one_line
from hfft.files import cannot_write, write_whole
from hfft.inference.classifier import Classifier, load_classifier
from hfft.inference.runs import own_sets
from hfft.metrics import WORDS, ClassRow, PairedDifference, SplitMetrics, counted, described, paired_difference
from hfft.models.checkpoint import make_output_folder
from hfft.output_folder import RECORD, claim, refuse_foreign, refuse_overlap
from hfft.report.fonts import shown_by_number
from hfft.report.terminal import aligned
from hfft.report.typed_json import plain
from hfft.report.write import Evidence, draw_evidence, write_predictions
from hfft.tasks.contract import needs_one_label
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.trust.selective import Selective
from hfft.wording import count_of

FILES = (
    *("evaluation.json", "predictions.csv", "confusion_matrix.png", "reliability.png"),
    "predicted_against_true.png",
)
"""What an evaluation writes."""
_CLOSE = 0.6  # so alike are names that an error offers as what may be meant


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        model: the folder or repository that was evaluated.
        data: the images, by name.
        metrics: those of the task: accuracy with Wilson's interval, macro-F1, top-k, loss and calibration error, or
            others.
        per_class: one row for each label that the model knows; none for numbers.
        notes: what the images were taken for, what was left out, and which names the plots lack.
        temperature: that the probabilities were calibrated with; 1 where they were not.
        selective: the accuracy where the model is surest.
        unknown: share of the images, 0 to 1, that the model takes for unlike what it was trained on; None where it came
            without its training images.
        against: another model on the same images; None where none was given.
        task: what the labels mean.
    """

    model: str
    data: str
    metrics: SplitMetrics
    per_class: list[ClassRow]
    notes: tuple[str, ...] = ()
    temperature: float = 1.0
    selective: Selective = field(default_factory=Selective)
    unknown: float | None = None
    against: Comparison | None = None
    task: str = SINGLE_LABEL.name

    def __repr__(self) -> str:
        """Return a line; `print` draws the table."""
        values = self.metrics.values
        score = next((f", {words.name} {values[name]:.3f}" for name, words in WORDS.items() if name in values), "")
        return f"Evaluation({self.model!r}, {self.data!r}, {count_of(self.metrics.images, 'image')}{score})"

    def __str__(self) -> str:
        return describe_evaluation(self)


@dataclass(frozen=True)
class Comparison:
    """Another model on the same images.

    Args:
        model: the folder or repository of the other.
        accuracy: of the other, 0 to 1.
        difference: by how much the evaluated model is more accurate.
    """

    model: str
    accuracy: float
    difference: PairedDifference


@dataclass(frozen=True)
class Answers:
    """What a model gives out for a set of images.

    Args:
        logits: shape (images, labels).
        unknown: how unlike the training images each is, as `Familiarity.score`, shape (images,); None where that is not
            known.
    """

    logits: NDArray[np.float32]
    unknown: NDArray[np.float64] | None


def evaluate(use: CheckpointArguments, options: EvaluateArguments) -> Evaluation:
    """Evaluate a finished model on labelled images and write the figures.

    Args:
        use: which model.
        options: which images, and where ``evaluation.json``, ``predictions.csv`` and the plots of the task go.

    Raises:
        ArgumentError: no images are given, and the model does not say which are its own.
        ModelError: the model cannot be loaded.
        DataError: an image cannot be read, or is of a class that the model does not know.
        OutputError: a file cannot be written.
    """
    folder = make_evaluation_folder(options)
    classifier = load_classifier(use.model, use.revision, use.token, use.trust_remote_code)
    images, notes = load_labelled(options, classifier)
    if options.against is not None:
        needs_one_label(classifier.task, "--against")
    answers = answer(classifier, images, use.batch_size)
    note = shown_by_number(classifier.labels, classifier.task.noun[1])
    evaluation = replace(score(classifier, images, answers, options), notes=(*notes, *([note] if note else [])))
    if options.against is not None:
        evaluation = replace(evaluation, against=_compare(use, options.against, (classifier, images, answers)))
    evidence = Evidence(classifier.task, images, classifier.labels, answers.logits)
    write_evaluation(folder, evaluation, evidence, answers.unknown)
    return evaluation


def make_evaluation_folder(options: EvaluateArguments) -> Path:
    """Make the folder for an evaluation.

    Raises:
        OutputError: it holds a run, files of other origin or the images, or cannot be made.
    """
    output = Path(options.output_dir).expanduser()
    refuse_overlap(output, {"dataset_name": options.dataset_name, "validation_dir": options.validation_dir})
    if (output / RECORD).exists():
        raise OutputError(f"{output} holds a run, whose files would be replaced; choose another --output_dir")
    refuse_foreign(output, FILES)
    return make_output_folder(output)


def load_labelled(options: EvaluateArguments, classifier: Classifier) -> tuple[ImageSet, tuple[str, ...]]:
    """The images to evaluate on, their labels numbered as the model numbers them, and what they were taken for.

    Raises:
        ArgumentError: no images are given, and the model does not say which are its own.
        DataError: the images cannot be loaded, or one is of a class that the model does not know.
    """
    if options.dataset_name is None and options.validation_dir is None:
        images, notes = _own(options, classifier)
        return sample(images, options.max_eval_samples, options.seed), notes
    found, notes = _find(options, classifier)
    task, labels = classifier.task, [composed(label) for label in classifier.labels]
    known = set(labels)
    for row, name in enumerate(found.names):
        if name is None or not known.issuperset(task.parts(name)):
            raise _unknown(found, row, classifier)
    targets = task.encode(task.aligned(found.names, found.order, labels), labels)
    images = replace(found.images, labels=targets, task=task)
    return sample(images, options.max_eval_samples, options.seed), (*notes, *found.notes)


def answer(classifier: Classifier, images: ImageSet, batch_size: int) -> Answers:
    """Run all images through the model; the progress goes to standard error.

    Raises:
        DataError: an image cannot be read.
    """
    loader = DataLoader(PixelDataset(images, classifier.pixels), batch_size, collate_fn=collate)
    with bar(total=len(images), unit="image") as progress:
        batches, compared = [], []
        for batch in loader:
            labels = batch.pop("labels")
            logits, found = classifier.outputs(batch)
            batches.append(logits)
            compared += found or []
            progress.update(len(labels))
    unknown = None if classifier.known is None else np.array([each.score for each in compared])
    return Answers(torch.cat(batches).numpy(), unknown)


def score(classifier: Classifier, images: ImageSet, answers: Answers, options: EvaluateArguments) -> Evaluation:
    """Sum up what a model gives out for labelled images."""
    found = classifier.task.judge(answers.logits, images.labels, classifier.labels, options.top_k)
    return Evaluation(
        classifier.name,
        images.name,
        found.metrics,
        found.per_class,
        temperature=classifier.temperature,
        selective=found.selective,
        unknown=None if answers.unknown is None else float((~(answers.unknown <= 1)).mean()),
        task=classifier.task.name,
    )


def _compare(use: CheckpointArguments, name: str, mine: tuple[Classifier, ImageSet, Answers]) -> Comparison:
    """Hold another model against one, with the images and the answers of the one."""
    classifier, images, answers = mine
    other = load_classifier(name, token=use.token, trust_remote_code=use.trust_remote_code)
    needs_one_label(other.task, "--against")
    named = [composed(label) for label in classifier.labels]
    lacking = sorted({named[number] for number in images.labels} - {composed(label) for label in other.labels})
    if lacking:
        raise DataError(f"{name} does not know the class {lacking[0]!r}, so it cannot be compared on these images")
    chosen = answer(other, images, use.batch_size).logits.argmax(axis=1)
    said = [composed(other.labels[place]) for place in chosen]
    right = np.array(said) == np.array(named)[images.labels]
    difference = paired_difference(answers.logits.argmax(axis=1) == images.labels, right)
    return Comparison(name, float(right.mean()), difference)


def describe_evaluation(evaluation: Evaluation) -> str:
    """Say it in a few lines and a table of the classes, if there are any."""
    lines = [
        f"{evaluation.model} on {evaluation.data}, {count_of(evaluation.metrics.images, 'image')}",
        *evaluation.notes,
        *(_metric(evaluation, name, value) for name, value in evaluation.metrics.values.items()),
        *_trust(evaluation),
    ]
    if not evaluation.per_class:
        return "\n".join(lines)
    rows = [
        (row.label, *map(_number, (row.precision, row.confidence, row.recall, row.f1)), str(row.support))
        for row in evaluation.per_class
        if row.support or row.precision or len(evaluation.per_class) <= 100
    ]
    lines += ["", *aligned(("class", "precision", "confidence", "recall", "F1", "images"), rows)]
    return "\n".join(lines)


_NAMES = {
    "f1_macro": "macro-F1",
    "f1_micro": "micro-F1",
    "ece": "ECE",
    "map": "mAP",
    "subset_accuracy": "subset",
    "r2": "R2",
    "mae": "MAE",
    "rmse": "RMSE",
}


def _metric(evaluation: Evaluation, name: str, value: float) -> str:
    """Return a line of a metric, with what it is and its interval where that is known."""
    metrics, label = evaluation.metrics, _NAMES.get(name, name)
    said = {
        "loss": "cross-entropy, nats",
        "ece": f"expected calibration error{_calibrated(evaluation)}",
        "map": "mean average precision over labels",
        "subset_accuracy": "share of images with all labels right",
        "tree_distance": "mean number of edges between the label that is answered and the true one",
        "node_accuracy": "share of the answered nodes that hold the true label",
        "node_depth": "mean depth of the answered nodes, 0 where none is sure enough",
    }
    notes = [said[name]] if name in said else []
    if name in metrics.intervals:
        low, high = metrics.intervals[name]
        notes.append(f"{metrics.level:.0%} interval {low:.4f} to {high:.4f}, {metrics.method_of(name)}")
    count = counted(value, metrics.images).partition(" ")[2] if name == "accuracy" else ""
    label = label.removesuffix("_accuracy") if name.startswith("top") else label
    more = f"  ({'; '.join(notes)})" if notes else ""
    return f"{label:<9}  {value:.4f}{' ' * bool(count)}{count}{more}"


def _calibrated(evaluation: Evaluation) -> str:
    return (
        "" if evaluation.temperature == 1 else f", probabilities calibrated with temperature {evaluation.temperature:g}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _trust(evaluation: Evaluation) -> Iterator[str]:
    found = evaluation.selective
    surest = ", ".join(f"{row.accuracy:.4f} at {row.coverage:.0%} (from {row.probability:.3f})" for row in found.rows)
    if surest:
        yield f"surest     {surest}  (accuracy where the model is surest, and the probability that it begins at)"
    if found.auroc is not None:
        yield f"AUROC      {found.auroc:.4f}  (a right answer is given a higher probability than a wrong one)"
    if evaluation.unknown is not None:
        yield f"unknown    {evaluation.unknown:.4f}  (share taken for unlike the training images)"
    if (other := evaluation.against) is not None:
        yield f"against    {other.accuracy:.4f} of {other.model}: {described(other.difference)}"


def _own(options: EvaluateArguments, classifier: Classifier) -> tuple[ImageSet, tuple[str, ...]]:
    """Return the images that the run itself was judged by, and what they are."""
    if classifier.record is None:
        raise ArgumentError(
            f"{classifier.name} holds no {RECORD}, which would name images of its own; give --dataset_name or "
            "--validation_dir, or a run's folder as --model"
        )
    try:
        sets = own_sets(classifier)
    except HfftError as error:
        raise DataError(
            f"the images of {classifier.name} itself cannot be read here ({one_line(error)}); give others with "
            "--dataset_name or --validation_dir"
        ) from error
    splits = {"train": sets.train, "validation": sets.validation, **({"test": sets.test} if sets.test else {})}
    split = options.split or ("test" if "test" in splits else "validation")
    if split not in splits:
        raise DataError(f"{classifier.name}: its own images have no split {split!r} among {', '.join(splits)}")
    note = f"No images are given, so these are the {split} images of the run itself"
    return replace(splits[split], task=classifier.task), (note,)


def _find(options: EvaluateArguments, classifier: Classifier) -> tuple[NamedImages, tuple[str, ...]]:
    names = ("dataset_name", "dataset_config_name", "image_column_name", "label_column_name", "label_separator")
    given = {name: getattr(options, name) for name in names}
    told = options.label_column_name or options.dataset_name is None
    columns = options.label_columns or (None if told else classifier.task.columns(classifier.labels))
    data = DataArguments(**given, label_columns=columns, task=classifier.task.name)
    if options.validation_dir is not None:
        folder = Path(options.validation_dir).expanduser()
        images, notes = read_split_folder(folder, "validation", classifier.labels)
        return of_folders(images, data), notes
    source = open_source(data)
    picked = pick_splits(source.splits)
    named = {**picked, **{name: name for name in source.splits}}
    wanted = [options.split] if options.split else ["test", "validation"]
    split = next((named[name] for name in wanted if name in named), None)
    if split is None and not options.split and len(source.splits) == 1:
        found = source.read(source.splits[0], source.splits[0], data)
        note = f"Evaluated on all {len(found.names):,} images: there is no test or validation split"
        whole = replace(found.images, name=source.name)  # its one split is often called so by hfft alone
        return replace(found, images=whole), (*source.notes, note)
    if split is None:
        what = f"split {options.split!r}" if options.split else "test or validation split"
        raise DataError(f"{source.name}: there is no {what} among {', '.join(source.splits)}; choose one with --split")
    return source.read(split, split, data), source.notes


def _unknown(found: NamedImages, row: int, classifier: Classifier) -> DataError:
    file = found.images.files[row]
    known = [composed(label) for label in classifier.labels]
    parts = [] if found.names[row] is None else classifier.task.parts(found.names[row])
    name = next((part for part in parts if part not in known), None)
    if name is None:
        return DataError(f"{found.images.place}: the image {file} has no label; label it or leave it out")
    close = difflib.get_close_matches(name, classifier.labels, n=1, cutoff=_CLOSE)
    hint = (
        f"did it mean {close[0]!r}?"
        if close
        else f"it knows {', '.join(classifier.labels[:5])}"
        + (f" and {len(classifier.labels) - 5} more" if len(classifier.labels) > 5 else "")
    )
    return DataError(
        f"{found.images.place}: {classifier.name} does not know the class {name!r} (as of {file}); {hint}; "
        "rename the class or leave it out"
    )


def write_evaluation(
    folder: Path, evaluation: Evaluation, evidence: Evidence, unknown: NDArray[np.float64] | None = None
) -> None:
    """Write ``evaluation.json``, ``predictions.csv`` and the plots of the task.

    Raises:
        OutputError: a file cannot be written.
    """
    task, images, labels = evidence.task, evidence.images, evidence.labels
    try:
        claim(folder, FILES)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)  # another task has other plots
    except OSError as error:
        raise cannot_write(f"to {folder}", error) from error
    table = task.table(images.labels, evidence.scores, labels)
    write_predictions(folder / "predictions.csv", images.files, *table, unknown)
    draw_evidence(folder, evidence, [name for name in task.plots if name in FILES])
    data = plain(asdict(evaluation))
    try:
        write_whole(folder / "evaluation.json", (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise cannot_write(folder / "evaluation.json", error) from error
