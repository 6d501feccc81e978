"""From images to labels with probabilities; the command line and the Space share it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel

from hfft.data.images import UnreadableImageError, open_image, upright_rgb
from hfft.data.layout import EXTENSIONS, ending_of, hidden, seen_endings
from hfft.data.preprocessing import Pixels, collate
from hfft.data.readers.sources import walk
from hfft.demo import EMBEDDED_MODEL, embedded_pretrained
from hfft.errors import ArgumentError, DataError, HfftError, ModelError, one_line
from hfft.models.checkpoint import load_folder
from hfft.models.download import fetch
from hfft.models.features import head_reads
from hfft.models.forward import logits_of
from hfft.output_folder import KNOWN, RECORD
from hfft.report.record import RunRecord, read_record_here
from hfft.tasks.contract import Answer, Score, Task, needs_one_label
from hfft.tasks.registry import task_of
from hfft.trust.calibration import temperature_of
from hfft.trust.conformal import label_sets
from hfft.trust.known import Familiarity, KnownImages, Neighbour, read_known

Source = str | os.PathLike[str] | Image.Image
"""An image's file, or an image that is open already."""

_NO_NUMBERS = "the model's answer to it is not a number: its weights are damaged, or too large for their format"


@dataclass(frozen=True, eq=False)  # models are equal to themselves alone
class Classifier:
    """A finished model with all that belongs to it.

    Args:
        name: the folder or repository it came from.
        model: in eval mode, on the device it runs on.
        pixels: how an image becomes its inputs, as in training.
        labels: the classes' names, by label number.
        record: of the run that made it; None where hfft did not.
        known: the training images that others are compared with; None where the model came without them.
    """

    name: str
    model: PreTrainedModel
    pixels: Pixels
    labels: tuple[str, ...]
    record: RunRecord | None = None
    known: KnownImages | None = None

    def __repr__(self) -> str:
        """Return a line: its parts hold the model and the features of the training images."""
        return f"Classifier({self.name!r}, {self.task.count(len(self.labels))})"

    @cached_property
    def task(self) -> Task:
        """How logits become answers."""
        return task_of(self.model.config, self.name)

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities; 1 where nothing was calibrated."""
        return temperature_of(self.model.config)

    def probabilities(self, logits: Tensor) -> NDArray[np.float32]:
        """Return what logits stand for, both of shape (batch, labels): calibrated probabilities, or numbers."""
        return self.task.scores(logits.numpy())

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Run a batch of model inputs through the model.

        Args:
            inputs: what `hfft.data.preprocessing.collate` makes of several images' pixels, on any device.

        Returns:
            Logits of shape (batch, labels), in float32 on the CPU.
        """
        with torch.inference_mode():
            outputs = self.model(**{name: tensor.to(self.model.device) for name, tensor in inputs.items()})
        return logits_of(outputs).float().cpu()

    def outputs(self, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Familiarity] | None]:
        """Run a batch through the model, and compare its images with those that it was trained on.

        Args:
            inputs: as for `logits`.

        Returns:
            Logits as of `logits`, and how each image stands to the training images; None where the model came without.

        Raises:
            ModelError: the training images that came with the model are another model's.
        """
        if self.known is None:
            return self.logits(inputs), None
        with head_reads(self.model, len(self.labels)) as reads:
            logits = self.logits(inputs)
        features = reads[-1][1].float().cpu().numpy() if reads else np.empty((0, 0), np.float32)
        if features.shape[1] != self.known.features.shape[1]:
            raise ModelError(
                f"{self.name}: {KNOWN} belongs to another model; copy it again, or delete it to do without"
            )
        return logits, self.known.compare(features)


@dataclass(frozen=True)
class Prediction:
    """What the model says about one image.

    Args:
        file: the image's file; ``image 1`` and so on for an image that was open already.
        label: the most likely label; empty where there is an error, or the model gives numbers.
        probability: of that label, 0 to 1.
        top: the most likely labels, best first.
        error: why the image could not be read; empty where it could.
        unknown: whether the image is unlike all that the model was trained on, so that its label says little; None
            where the model came without its training images.
        unknown_score: distance from the training images over the largest that counts as known: above 1 is unknown.
        nearest: the training images most like it.
        label_set: the labels that hold the right one as often as was asked for; empty where nothing was.
        labels: of a multi-label model, the labels that reach their thresholds, perhaps none; None of another one.
        values: of a regression model, the number for each target; empty of another one.
        node: of a tree of labels, the deepest node that is sure enough (no name: the root); None of another model.
    """

    file: str
    label: str = ""
    probability: float = 0.0
    top: tuple[Score, ...] = ()
    error: str = ""
    unknown: bool | None = None
    unknown_score: float | None = None
    nearest: tuple[Neighbour, ...] = ()
    label_set: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    values: dict[str, float] = field(default_factory=dict)
    node: Score | None = None

    @property
    def answer(self) -> Answer:
        """What the model says, apart from the image's name and what it was compared with."""
        return Answer(self.label, self.probability, self.top, self.labels, self.values, self.node)

    @property
    def shown(self) -> Score:
        """What is said first: of a tree of labels the node that is sure enough, else the most likely label."""
        return self.node if self.node is not None and self.node.label else Score(self.label, self.probability)

    def plain(self) -> dict[str, Any]:
        """Return what programs are told: of an error the file and the reason, else what the model has an answer to."""
        if self.error:
            return {"file": self.file, "error": self.error}
        values = asdict(self) | {"error": None}
        absent = {name for name in ("unknown", "unknown_score", "nearest", "label_set") if values[name] in (None, ())}
        absent |= {name for name in ("labels", "node") if values[name] is None}
        absent |= {"label", "probability", "top"} if self.values else {"values"}
        if self.unknown_score is not None and not math.isfinite(self.unknown_score):
            values["unknown_score"] = None  # JSON has no other word for it
        return {name: value for name, value in values.items() if name not in absent}


def load_classifier(
    path_or_repo: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
) -> Classifier:
    """Load a finished model, ready to classify.

    Args:
        path_or_repo: a run's output folder, a delta's folder or a repository on the Hub; None for the
            embedded model with its 1000 ImageNet classes.
        revision: branch, tag or commit on the Hub.
        token: access token for the Hub; by default the one that ``hf auth login`` stored.
        trust_remote_code: run code that the repository brings along.
        device: where to run, as torch names it; by default a GPU where there is one.

    Raises:
        ArgumentError: there is no such device here.
        ModelError: nothing is found there, it is not whole, or it does not say what its output means.
        HfftError: the record that lies there is damaged.

    Example:
        >>> hfft.load_classifier("outputs/photos").labels
        ('blue', 'green', 'red')
    """
    place = _device(device)
    record, known = None, None
    model: PreTrainedModel
    processor: BaseImageProcessor
    if path_or_repo is None:
        model, processor = embedded_pretrained()
    else:
        folder = fetch(path_or_repo, revision, token, trust_remote_code)
        model, processor = load_folder(folder, token, trust_remote_code)
        task_of(model.config, str(path_or_repo))
        record = read_record_here(folder / RECORD) if (folder / RECORD).exists() else None
        known = read_known(folder / KNOWN, len(model.config.id2label or {})) if (folder / KNOWN).exists() else None
    # nn.Module's own method: transformers' overload does not type-check with a string.
    torch.nn.Module.to(model, place)
    labels = tuple(str(name) for _, name in sorted((model.config.id2label or {}).items()))
    pixels = Pixels(processor, exact=_decodes_whole(record))
    return Classifier(str(path_or_repo or EMBEDDED_MODEL), model, pixels, labels, record, known)


def _device(name: str | None) -> torch.device:
    """Return a device that can be computed on; by default a GPU where there is one.

    Raises:
        ArgumentError: there is no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        why = one_line(error)[:200]
        raise ArgumentError(f"the device {name!r:.60} cannot be used here ({why}); leave it out") from error
    return device


def classify(
    classifier: Classifier,
    sources: Iterable[Source],
    top_k: int = 5,
    batch_size: int = 32,
    coverage: float | None = None,
) -> Iterator[Prediction]:
    """Classify images, in their order, a batch at a time.

    An image that cannot be read becomes a prediction with an error. A folder stands for all images in it and below.

    Args:
        classifier: what `load_classifier` returns.
        sources: files, folders or images.
        top_k: how many labels to give per image; a model with fewer gives all of them.
        batch_size: images per forward pass.
        coverage: how often `Prediction.label_set` is to hold the right label, 0 to 1; see `hfft.trust.conformal`.

    Raises:
        ArgumentError: the classifier or the list of files and images is not one, or fewer than one label or image at a
            time is asked for.
        DataError: a folder holds no images.
        ModelError: sets of labels are asked for, and the model came without what they need.

    Example:
        >>> classifier = hfft.load_classifier("outputs/photos")
        >>> for prediction in hfft.classify(classifier, ["photos/test/red/0.png"]):
        ...     print(prediction.file, prediction.label in classifier.labels, len(prediction.top))
        photos/test/red/0.png True 3
    """
    if not isinstance(classifier, Classifier):
        given = shorten(repr(classifier), 60)
        raise ArgumentError(f"{given} is not a classifier: give what hfft.load_classifier returns")
    if isinstance(sources, str | os.PathLike | Image.Image):
        raise ArgumentError(f"give a list of files or images, for example [{sources!r:.60}], not a single one")
    if not isinstance(sources, Iterable):
        raise ArgumentError(f"give a list of files or images, not {sources!r:.60}")
    for name, value in {"top_k": top_k, "batch_size": batch_size}.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ArgumentError(f"{name} must be a whole number of at least 1, not {value!r}")
    if coverage is not None:
        check_coverage(classifier, coverage)
    return _classified(classifier, sources, top_k, batch_size, coverage)


def _classified(
    classifier: Classifier, sources: Iterable[Source], top_k: int, batch_size: int, coverage: float | None
) -> Iterator[Prediction]:
    number = 0
    for batch in _batches(_expanded(sources), batch_size):
        rows: list[Prediction | str] = []
        inputs: list[dict[str, Tensor]] = []
        for source in batch:
            number += 1
            if not isinstance(source, str | os.PathLike | Image.Image):
                raise ArgumentError(f"image {number} is a {type(source).__name__}; give files or PIL images")
            name = f"image {number}" if isinstance(source, Image.Image) else os.fspath(source)
            try:
                inputs.append(classifier.pixels(_open(source, name, classifier.pixels.least)))
                rows.append(name)
            except UnreadableImageError as error:
                rows.append(Prediction(name, error=f"cannot read the image {name}: {error.reason}"))
            except (HfftError, OSError, ValueError, RuntimeError, TypeError) as error:
                rows.append(Prediction(name, error=one_line(error)))
        found = iter(_predictions(classifier, inputs, top_k, coverage))
        for row in rows:
            yield row if isinstance(row, Prediction) else replace(next(found), file=row)


def find_images(paths: Sequence[str | Path], say: Callable[[str], None] | None = None) -> list[str]:
    """List files as they are given, and of each folder all images in it and below, in order of name.

    Args:
        paths: files and folders.
        say: called with a line about what was left out of a folder.

    Raises:
        ArgumentError: an address is given.
        DataError: a folder holds no images.
    """
    files: list[str] = []
    for given in paths:
        if "://" in str(given):
            raise ArgumentError(f"{given} is an address; hfft reads files: download it, and give the file")
        path = Path(given)
        if not path.is_dir():
            files.append(str(path))
            continue
        shown = [name for name in walk(path)[0] if not name.endswith("/") and not any(map(hidden, name.split("/")))]
        found = sorted(path / name for name in shown if name.lower().endswith(EXTENSIONS))
        left = Counter(ending_of(name.rpartition("/")[2]) for name in shown if not name.lower().endswith(EXTENSIONS))
        if not found:
            raise DataError(f"{path} holds no images{seen_endings(left)}; give another folder, or files")
        files += map(str, found)
        if left and say is not None:
            say(f"{path}: left out: {', '.join(f'{count:,} {ending}' for ending, count in left.most_common())}")
    return files


def _expanded(sources: Iterable[Source]) -> Iterator[Source]:
    for source in sources:
        if isinstance(source, str | os.PathLike) and os.path.isdir(source):
            yield from find_images([Path(source)])
        else:
            yield source


def _batches(sources: Iterable[Source], size: int) -> Iterator[tuple[Source, ...]]:
    remaining = iter(sources)
    while batch := tuple(islice(remaining, size)):
        yield batch


def _decodes_whole(record: RunRecord | None) -> bool:
    """Whether a model was trained on JPEGs that were decoded whole."""
    return record is not None and bool(record.arguments.get("exact", True))


def _open(source: Source, name: str, least: int | None) -> Image.Image:
    if isinstance(source, Image.Image):
        return upright_rgb(source)
    return open_image(source, name, least)


def check_coverage(classifier: Classifier, coverage: float) -> None:
    """Make sure that a model can give sets of labels.

    Raises:
        ArgumentError: the share does not lie between 0 and 1.
        ModelError: the model came without what the sets need, or gives an image several labels or numbers.
    """
    needs_one_label(classifier.task, "--coverage")
    if not (isinstance(coverage, int | float | np.number) and 0 < coverage < 1):
        raise ArgumentError(f"--coverage must lie between 0 and 1, not {coverage}")
    if classifier.known is None:
        raise ModelError(
            f"{classifier.name} holds no {KNOWN}, from which sets of labels are made: train it again with this hfft, "
            "or leave out --coverage"
        )
    if not len(classifier.known.truth):
        raise ModelError(
            f"the {KNOWN} of {classifier.name} says nothing of images held out, as after hfft extend without the old "
            "images: train it again on all images, or leave out --coverage"
        )


def _predictions(
    classifier: Classifier, inputs: list[dict[str, Tensor]], top_k: int, coverage: float | None
) -> list[Prediction]:
    """Return a prediction without a file for each of the inputs."""
    if not inputs:
        return []
    alike = len({tuple(value.shape for value in each.values()) for each in inputs}) == 1
    groups = [inputs] if alike else [[each] for each in inputs]  # some processors keep an image's own shape
    outputs = [classifier.outputs(collate(group)) for group in groups]
    shares = classifier.probabilities(torch.cat([logits for logits, _ in outputs]))
    answers = [classifier.task.answer(row, classifier.labels, top_k) for row in shares]
    rows = [
        Prediction("", each.label, each.probability, each.top, labels=each.labels, values=each.values, node=each.node)
        for each in answers
    ]
    if (known := classifier.known) is not None:
        compared = [each for _, some in outputs for each in some or ()]
        rows = [_compared(row, known, found, classifier.labels) for row, found in zip(rows, compared, strict=True)]
        if coverage is not None:
            sets = label_sets(shares, known.truth, coverage)
            named = [tuple(classifier.labels[number] for number in each) for each in sets]
            rows = [replace(row, label_set=each) for row, each in zip(rows, named, strict=True)]
    finite = [np.isfinite(each).all() for each in shares]
    return [row if fine else Prediction("", error=_NO_NUMBERS) for row, fine in zip(rows, finite, strict=True)]


def _compared(row: Prediction, known: KnownImages, found: Familiarity, labels: tuple[str, ...]) -> Prediction:
    return replace(row, unknown=found.unknown, unknown_score=found.score, nearest=known.neighbours(found, labels))
