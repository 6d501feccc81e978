"""`hfft predict`: a table for people, CSV and JSON lines for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from hfft.arguments import CheckpointArguments, PredictArguments
from hfft.bars import bar, loading
from hfft.cli.commands import summary_of
from hfft.cli.reply import Reply
from hfft.demo import EMBEDDED_NAME
from hfft.parsing import parse
from hfft.report.terminal import in_a_line, tail
from hfft.wording import count_of

if TYPE_CHECKING:
    from hfft.inference.classifier import Prediction
    from hfft.tasks.contract import Task

_WIDEST = 60  # characters of a file's name that a table shows


def predictions(use: CheckpointArguments, show: PredictArguments, paths: Sequence[str]) -> Reply:
    """Classify images and folders; results go to standard output, progress to standard error.

    Returns:
        A prediction for each image; the exit code becomes 1 where not a single image could be read.

    Raises:
        HfftError: the model cannot be loaded, or a folder holds no images.
    """
    with loading():
        from hfft.inference.classifier import classify, find_images, load_classifier

    files = find_images(paths, lambda line: print(line, file=sys.stderr))
    classifier = load_classifier(use.model, use.revision, use.token, use.trust_remote_code)
    if use.model is None:
        print(
            f"No --model: {EMBEDDED_NAME} answers, which knows ImageNet's classes alone; a run of yours: --model "
            "outputs/NAME",
            file=sys.stderr,
        )
    rows = classify(classifier, files, show.top_k, use.batch_size, show.coverage)
    task = classifier.task
    heads = tuple(task.heads(classifier.labels, show.top_k))
    columns = Columns(task, heads, classifier.known is not None, show.coverage is not None)
    reply = Reply()

    def counted() -> Iterator[Prediction]:
        failed = 0
        for row in bar(rows, total=len(files), unit="image"):
            failed += bool(row.error)
            yield row
        if failed:
            of = count_of(len(files), "image")
            print(f"hfft: {failed:,} of {of} could not be read; their rows say why", file=sys.stderr)
        reply.code = int(failed == len(files))

    reply.result = lambda: {"model": classifier.name, "predictions": [row.plain() for row in counted()]}
    reply.text = lambda: write_predictions(counted(), show.format, files, columns)
    return reply


@dataclass(frozen=True)
class Columns:
    """What a table of predictions holds.

    Args:
        task: how answers are written.
        heads: titles of what an answer holds.
        unknown: whether images are compared with the training images.
        sets: whether there are sets of labels.
    """

    task: Task
    heads: tuple[str, ...]
    unknown: bool = False
    sets: bool = False


def write_predictions(
    rows: Iterable[Prediction], form: str, files: Sequence[str], columns: Columns, stream: TextIO | None = None
) -> None:
    """Write each prediction as soon as it is there.

    Args:
        rows: the predictions.
        form: ``table``, ``csv`` or ``jsonl``.
        files: all names to come, which the table's first column is made wide enough for.
        columns: what a prediction holds.
        stream: where to; by default standard output.
    """
    stream = sys.stdout if stream is None else stream
    if hasattr(stream, "reconfigure"):
        # A file's name may hold bytes that are not text in any encoding; they come out as they went in.
        stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "backslashreplace")
    writers: dict[str, Callable[[], Iterator[str]]] = {
        "table": lambda: _table(rows, files, columns.task),
        "jsonl": lambda: (json.dumps(row.plain()) for row in rows),
    }
    if form == "csv":
        _csv(rows, columns, stream)
        return
    for line in writers[form]():
        print(line, file=stream, flush=True)


def _csv(rows: Iterable[Prediction], columns: Columns, stream: TextIO) -> None:
    more = [*(["unknown_score", "unknown", "nearest"] * columns.unknown), *(["label_set"] * columns.sets)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["file", *columns.heads, *more, "error"])
    for row in rows:
        cells = [] if row.error else columns.task.cells(row.answer)
        cells += [""] * (len(columns.heads) - len(cells))
        writer.writerow([row.file, *cells, *_trust_cells(row, columns), row.error])


def _trust_cells(row: Prediction, columns: Columns) -> list[str]:
    """Return the cells of an image's comparison with the training images and of its set of labels, as far as wanted."""
    cells = []
    if columns.unknown:
        known = row.unknown_score is not None
        cells += [f"{row.unknown_score:.4f}" if known else "", str(row.unknown).lower() if known else ""]
        cells.append(row.nearest[0].file if row.nearest else "")
    labels = "" if row.error else json.dumps(row.label_set, ensure_ascii=False)
    return [*cells, *([labels] * columns.sets)]


def _table(rows: Iterable[Prediction], files: Sequence[str], task: Task) -> Iterator[str]:
    width = max([4, *(min(len(file), _WIDEST) for file in files)])
    yield f"{'file':<{width}}  {task.replies}"
    for row in rows:
        said = f"error: {row.error}" if row.error else _said(row, task)
        yield in_a_line(f"{tail(row.file, _WIDEST):<{width}}  {said}")


def _said(row: Prediction, task: Task) -> str:
    """Say what a prediction holds in a line, beginning with the verdict where an image is unknown."""
    text = task.said(row.answer)
    if row.label_set:
        text += f"  set: {', '.join(row.label_set)}"
    if not row.unknown:
        return text
    nearest = ", ".join(f"{tail(each.file, _WIDEST)} ({each.label})" for each in row.nearest)
    return f"unknown, {row.unknown_score:.2f} times as far as known images; nearest: {nearest}; else {text}"


def predict_command(argv: list[str]) -> Reply:
    """Label images with a finished model: a table, CSV or JSON lines on standard output."""
    images = {"nargs": "+", "metavar": "IMAGE_OR_FOLDER", "help": "Images, or folders with images in them and below."}
    groups = (CheckpointArguments, PredictArguments)
    return predictions(*parse(groups, argv, "predict", summary_of("predict"), images))
