"""`hfft predict`: a table for people, CSV and JSON lines for programs."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from hfft.arguments import CheckpointArguments, PredictArguments
from hfft.cli.commands import summary_of
from hfft.parsing import parse

if TYPE_CHECKING:
    from hfft.inference.classifier import Prediction

_WIDEST = 60  # characters of a file's name that a table shows


def print_predictions(use: CheckpointArguments, show: PredictArguments, paths: Sequence[str]) -> int:
    """Classify images and folders; results go to standard output, progress to standard error.

    Returns:
        0, or 1 where not a single image could be read.

    Raises:
        HfftError: the model cannot be loaded, or a folder holds no images.
    """
    from tqdm import tqdm

    from hfft.inference.classifier import classify, find_images, load_classifier

    files = find_images(paths, lambda line: print(line, file=sys.stderr))
    classifier = load_classifier(use.model, use.revision, use.token, use.trust_remote_code)
    rows = classify(classifier, files, show.top_k, use.batch_size)
    failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal failed
        # Without a terminal there is no bar: disable=None asks tqdm to find out.
        for row in tqdm(rows, total=len(files), unit="image", file=sys.stderr, disable=None):
            failed += bool(row.error)
            yield row

    labels = min(show.top_k, len(classifier.labels))
    try:
        write_predictions(counted(), show.format, files, labels)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for instance, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if failed:
        print(f"hfft: {failed} of {len(files)} images could not be read; their rows say why", file=sys.stderr)
    return int(failed == len(files))


def write_predictions(
    rows: Iterable[Prediction], form: str, files: Sequence[str], labels: int, stream: TextIO | None = None
) -> None:
    """Write each prediction as soon as it is there.

    Args:
        rows: the predictions.
        form: ``table``, ``csv`` or ``jsonl``.
        files: all names to come, which the table's first column is made wide enough for.
        labels: how many labels each prediction holds at most.
        stream: where to; by default standard output.
    """
    stream = sys.stdout if stream is None else stream
    if hasattr(stream, "reconfigure"):
        # A file's name may hold bytes that are no text in any encoding; they come out as they went in.
        stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "backslashreplace")
    writers: dict[str, Callable[[], Iterator[str]]] = {
        "table": lambda: _table(rows, files),
        "jsonl": lambda: (json.dumps(_plain(row)) for row in rows),
    }
    if form == "csv":
        _csv(rows, labels, stream)
        return
    for line in writers[form]():
        print(line, file=stream, flush=True)


def _csv(rows: Iterable[Prediction], labels: int, stream: TextIO) -> None:
    more = [name for place in range(2, labels + 1) for name in (f"label_{place}", f"probability_{place}")]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["file", "label", "probability", *more, "error"])
    for row in rows:
        scores = [cell for score in row.top for cell in (score.label, f"{score.probability:.6f}")]
        scores += [""] * (2 * labels - len(scores))
        writer.writerow([row.file, *scores, row.error])


def _table(rows: Iterable[Prediction], files: Sequence[str]) -> Iterator[str]:
    width = max([4, *(min(len(file), _WIDEST) for file in files)])
    yield f"{'file':<{width}}  labels"
    for row in rows:
        scores = "  ".join(f"{score.label} {score.probability:.3f}" for score in row.top)
        yield f"{_tail(row.file):<{width}}  {'error: ' + row.error if row.error else scores}"


def _tail(name: str) -> str:
    return name if len(name) <= _WIDEST else "..." + name[3 - _WIDEST :]


def _plain(row: Prediction) -> dict[str, Any]:
    if row.error:
        return {"file": row.file, "error": row.error}
    return asdict(row) | {"error": None}


def predict_command(argv: list[str]) -> int:
    """Label images with a finished model: a table, CSV or JSON lines on standard output."""
    images = {"nargs": "+", "metavar": "IMAGE_OR_FOLDER", "help": "Images, or folders with images in them and below."}
    groups = (CheckpointArguments, PredictArguments)
    return print_predictions(*parse(groups, argv, "predict", summary_of("predict"), images))
