"""How close an export is to PyTorch on real images, and whether that is close enough."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfft._version import __version__
from hfft.bars import bar
from hfft.data.preprocessing import collate
from hfft.errors import ModelError
from hfft.files import write_whole
from hfft.inference.export.images import RealImages
from hfft.wording import count_of

if TYPE_CHECKING:
    from PIL import Image

    from hfft.inference.classifier import Classifier
    from hfft.tasks.contract import Task

PARITY = "parity.json"
ACCURACY_POINTS = 0.5
"""Percentage points of accuracy that a quantized export may lose."""
_ROUNDING = 1e-5  # of a distance, which is one less a cosine in float32
_SCORE = 0.05  # share by which an exact export's `unknown_score` may differ
_TIMED = 10  # images whose median is the time of one

Answers = dict[str, NDArray[np.float32]]
"""By output, ``probabilities`` for instance, one row for each image."""
Runner = Callable[[NDArray[np.uint8]], Answers]
"""From images of one size, uint8 of shape (batch, height, width, 3), to the answers of a model."""


@dataclass(frozen=True)
class Parity:
    """How close an exported model is to PyTorch, preprocessing included.

    Args:
        format: of the export.
        images: how many real images both saw.
        source: where those came from.
        same_labels: how many of them got the same label, labels or values from both.
        difference: the largest difference of a probability; of a regression, of a value as a share of the largest.
        unknown_difference: the largest difference of `unknown_score`, as a share of it; None without training images.
        same_unknown: how many images are "none of these" for both or for neither; None without training images.
        torch_accuracy: share of right labels by PyTorch; None where nobody knows the right ones.
        accuracy: the same by the export.
        megabytes: what the export takes on disk.
        milliseconds: for one image, with its preprocessing, on the CPU of this machine; the median of a few.
        torch_milliseconds: the same in PyTorch.
        bound: what it had to pass.
        output: what is compared, by the name of the export's output.
    """

    format: str
    images: int
    source: str
    same_labels: int
    difference: float
    unknown_difference: float | None
    same_unknown: int | None
    torch_accuracy: float | None
    accuracy: float | None
    megabytes: float
    milliseconds: float
    torch_milliseconds: float
    bound: str
    output: str = "probabilities"

    def describe(self) -> str:
        """Say it in a line."""
        accuracy = ""
        if self.accuracy is not None and self.torch_accuracy is not None:
            accuracy = f", accuracy {self.accuracy:.3f} (PyTorch {self.torch_accuracy:.3f})"
        unknown = "" if self.same_unknown is None else f', {self.same_unknown} its answer to "none of these"'
        return (
            f"{self.same_labels} of {count_of(self.images, 'image')} ({self.source}) get PyTorch's answer"
            f"{unknown}{accuracy}; {self.output} differ by at most {self.difference:.1e}; {self.megabytes:.1f} MB, "
            f"{self.milliseconds:.1f} ms an image (PyTorch {self.torch_milliseconds:.1f})"
        )


@dataclass(frozen=True)
class Expected:
    """What PyTorch says of real images.

    Args:
        images: the images.
        answers: to each of them.
        task: says which answers are the same, and the name of the one that counts.
        milliseconds: for one image; the median of a few.
        threshold: the distance from the training images that scores are multiples of; 1 without them.
    """

    images: RealImages
    answers: Answers
    task: Task
    milliseconds: float
    threshold: float = 1.0


def expected_of(classifier: Classifier, images: RealImages) -> Expected:
    """Let PyTorch answer, image by image."""
    outputs, seconds = [], []
    for image in bar(images, total=images.count, desc="PyTorch", unit="image"):
        start = time.perf_counter()
        logits, compared = classifier.outputs(collate([classifier.pixels(image)]))
        seconds.append(time.perf_counter() - start)
        scores = [] if compared is None else [compared[0].score]
        outputs.append((logits[0].numpy(), classifier.probabilities(logits)[0], scores))
    logits_, shares, scores_ = zip(*outputs, strict=True)
    answers = {"logits": np.stack(logits_), classifier.task.output: np.stack(shares)}
    threshold = 1.0
    if classifier.known is not None:
        answers["unknown_score"] = np.array(scores_, np.float32)[:, 0]
        threshold = classifier.known.threshold
    return Expected(images, answers, classifier.task, statistics.median(seconds[:_TIMED]) * 1000, threshold)


def compare(name: str, run: Runner, expected: Expected, folder: Path, tolerance: float | None) -> Parity:
    """Run the same images through an export, one by one, and one of them in a batch as well.

    Args:
        name: of the format.
        run: the export.
        expected: what PyTorch said.
        folder: with the export's files.
        tolerance: largest difference of a probability that passes; None where accuracy decides.

    Raises:
        ModelError: an image is answered in another way in a batch than alone.
    """
    rows, seconds = [], []
    for image in bar(expected.images, total=expected.images.count, desc=name, unit="image"):
        pixels = np.asarray(image)[None]
        start = time.perf_counter()
        rows.append(run(pixels))
        seconds.append(time.perf_counter() - start)
    found = {output: np.concatenate([row[output] for row in rows]) for output in expected.answers}
    _check_batch(name, run, expected.images.open(0), {output: rows[0][output] for output in found})
    task, truth = expected.task, expected.images.truth
    mine, theirs = found[task.output], expected.answers[task.output]
    apart, verdicts = None, None
    if "unknown_score" in found:
        scores, before = found["unknown_score"], expected.answers["unknown_score"]
        rounding = _ROUNDING / expected.threshold
        apart = largest(scores / np.maximum(before, 1 + rounding), before / np.maximum(before, 1 + rounding))
        verdicts = int(((scores <= 1) == (before <= 1)).sum())
    return Parity(
        format=name,
        images=len(theirs),
        source=expected.images.source,
        same_labels=int(task.same(theirs, mine).sum()),
        difference=largest(mine, theirs) / max(1.0, float(np.abs(theirs).max())),
        unknown_difference=apart,
        same_unknown=verdicts,
        torch_accuracy=None if truth is None else float((theirs.argmax(1) == truth).mean()),
        accuracy=None if truth is None else float((mine.argmax(1) == truth).mean()),
        megabytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6,
        milliseconds=statistics.median(seconds[:_TIMED]) * 1000,
        torch_milliseconds=expected.milliseconds,
        bound=bound_of(tolerance, task.output),
        output=task.output,
    )


def largest(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference; a NaN on either side does not pass for a small one."""
    difference = float(np.abs(found - expected).max())
    return difference if math.isfinite(difference) else math.inf


def bound_of(tolerance: float | None, output: str) -> str:
    """Say what an export has to pass."""
    if tolerance is None:
        return f"accuracy within {ACCURACY_POINTS:g} points of PyTorch's"
    return f"the same answer on all images, {output} within {tolerance:g}, unknown_score within {_SCORE:.0%}"


def require(parity: Parity, tolerance: float | None) -> None:
    """Make sure that an export passes its bound.

    Raises:
        ModelError: it does not.
    """
    if tolerance is None:
        before = 1.0 if parity.torch_accuracy is None else parity.torch_accuracy
        after = parity.same_labels / parity.images if parity.accuracy is None else parity.accuracy
        passed = before - after <= ACCURACY_POINTS / 100 + 1e-9
    else:
        close = parity.difference <= tolerance and (parity.unknown_difference or 0.0) <= _SCORE
        passed = parity.same_labels == parity.images and close
    if not passed:
        raise ModelError(
            f"the {parity.format} export is not the model: {parity.describe()}; the bound is {parity.bound}; it was "
            "not kept"
        )


def write_parity(folder: Path, parity: Parity) -> None:
    """Write ``parity.json`` beside an export."""
    text = json.dumps({"producer": f"hfft {__version__}", **asdict(parity)}, indent=2, ensure_ascii=False)
    write_whole(folder / PARITY, f"{text}\n".encode(errors="backslashreplace"))  # names of images need not be text


def _check_batch(name: str, run: Runner, image: Image.Image, alone: Answers) -> None:
    pixels = np.asarray(image)
    batch = run(np.stack([pixels, pixels[:, ::-1], pixels[::-1]]))
    if not all(np.allclose(batch[output][:1], alone[output], rtol=1e-2, atol=1e-2, equal_nan=True) for output in alone):
        raise ModelError(
            f"the {name} export is not the model: in a batch of three an image is answered in another way than alone"
        )
