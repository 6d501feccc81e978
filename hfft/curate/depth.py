"""Accuracy over depth: a linear probe on the pooled output of each block, which shows where pretraining stops helping.

The method is that of Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.arguments import DataArguments, DepthArguments, FeatureArguments
from hfft.bars import unsaid
from hfft.curate.encoder import Encoder, load_encoder
from hfft.curate.features import HEAD_INPUT, read_features
from hfft.curate.gather import Gathered, gather, refuse_existing
from hfft.data.images import ImageSet
from hfft.data.labels import label_map
from hfft.errors import DataError
from hfft.jobs.advice.compare import folds_of
from hfft.jobs.advice.folds import cross_validate_probe
from hfft.metrics import counted, difference_error, wilson_interval
from hfft.parsing import Place, parse_keywords, place_of
from hfft.report.plots import depth_figure
from hfft.report.terminal import aligned
from hfft.surroundings import undisturbed
from hfft.wording import count_of


@dataclass(frozen=True)
class PartProbe:
    """What a linear probe makes of one part's output.

    Args:
        part: ``stem``, ``block 1`` and so on, ``neck``, or ``head input``.
        features: how many numbers an image has there, once pooled.
        accuracy: cross-validated, 0 to 1.
        interval: Wilson's, 95 %.
        share: of the model's parameters that lie in this part and before it, 0 to 1.
    """

    part: str
    features: int
    accuracy: float
    interval: tuple[float, float]
    share: float


@dataclass(frozen=True)
class Depth:
    """Accuracy over depth.

    Args:
        model: whose parts they are.
        images: that were probed on.
        folds: of the cross-validation.
        probes: from the first part to what the head reads.
        enough: the first part within one standard error of the best.
    """

    model: str
    images: int
    folds: int
    probes: tuple[PartProbe, ...]
    enough: str

    def __repr__(self) -> str:
        """Return a line; `print` draws the table."""
        return f"Depth({self.model!r}, {count_of(self.images, 'image')}, enough from {self.enough} on)"

    def __str__(self) -> str:
        rows = [
            (
                each.part,
                f"{each.accuracy:.3f}",
                "{:.3f} to {:.3f}".format(*each.interval),
                f"{each.features:,}",
                f"{each.share:.1%}",
                "<- as good as the best from here" * (each.part == self.enough),
            )
            for each in self.probes
        ]
        head = ("part", "accuracy", "95% interval", "features", "parameters so far", "")
        return "\n".join([*aligned(head, rows, words=(0, 2, 5)), "", self.sentence()])

    def sentence(self) -> str:
        """Say what it means."""
        best = max(self.probes, key=lambda each: each.accuracy)
        enough = next(each for each in self.probes if each.part == self.enough)
        how = f"By {self.folds}-fold cross-validation of linear probes on {self.images} images: "
        if enough == best:
            return f"{how}{best.part} is the best, {counted(best.accuracy, self.images)}."
        return (
            f"{how}{enough.part}, {counted(enough.accuracy, self.images)}, is within one standard error of "
            f"{best.part}, {counted(best.accuracy, self.images)}; what lies deeper, as it was pretrained, adds "
            "nothing for these images."
        )

    def data(self) -> dict[str, Any]:
        """Return the same as plain data."""
        return asdict(self)


def accuracy_over_depth(
    use: FeatureArguments, data: DataArguments, options: DepthArguments, place: str | None, say: Callable[[str], None]
) -> Depth:
    """Cross-validate a linear probe on the pooled output of each part of a model.

    Training images and those that hfft would set aside for validation take part, test images never.

    Args:
        use: the model, a run or a pretrained one.
        data: which labelled images, where `place` does not say.
        options: folds, and where the figure goes.
        place: a data set, or the folder of a finished run.
        say: prints a line for the user.

    Raises:
        HfftError: images or model are not usable, and how to mend it.
    """
    target = refuse_existing(options.output)
    gathered = gather(data, place)
    for note in gathered.notes:
        say(note)
    encoder = load_encoder(use)
    images = _training_images(gathered)
    folds = folds_of(images, options.folds, options.seed)
    parts = [label for label, names in encoder.anatomy.parts() if names and label != "head"]
    views = read_features(encoder, {"train": images}, [*parts, None], say)["train"].views
    right = [cross_validate_probe(view.astype(np.float64), folds, options.seed) == images.labels for view in views]
    depth = _depth(encoder, len(folds), views, right)
    if target is not None:
        depth_figure([(each.part, each.accuracy, each.interval) for each in depth.probes], target)
    return depth


@undisturbed()
def depth_with(place: Place | None = None, /, *, say: Callable[[str], None] | None = print, **options: Any) -> Depth:
    """Measure accuracy over depth; this is ``hfft.depth``.

    Args:
        place: a data set, or the folder of a finished run; left out, the options name the images.
        say: prints a line for the user; None for silence.
        options: the flags of ``hfft depth`` under their own names, for example ``train_dir``, ``model`` and ``output``.

    Returns:
        A `Depth`: ``depth.probes`` from the first part to what the head reads, each with ``accuracy`` and ``interval``,
        and ``depth.enough``, the first part within one standard error of the best; ``print`` draws it as a table.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: images or model are not usable, and how to mend it.

    Example:
        >>> depth = hfft.depth(train_dir="photos/train", model="outputs/photos", folds=2, say=lambda line: None)
        >>> [each.part for each in depth.probes]
        ['stem', 'block 1', 'block 2', 'block 3', 'block 4', 'block 5', 'block 6', 'block 7', 'neck', 'head input']
    """
    groups = (FeatureArguments, DataArguments, DepthArguments)
    use, data, wanted = parse_keywords(groups, options, "hfft.depth")
    return accuracy_over_depth(use, data, wanted, place_of(place, "hfft.depth"), say or unsaid)


def _training_images(gathered: Gathered) -> ImageSet:
    """Return the training images with numbers for labels.

    Raises:
        DataError: there are none, one has no label, or all are of one class.
    """
    if "train" not in gathered.splits:
        raise DataError(f"{gathered.name} has no labelled training images; a probe learns from labels")
    named = gathered.splits["train"]
    numbers = {label: number for number, label in enumerate(label_map(named))}
    return replace(named.images, labels=np.array([numbers[str(name)] for name in named.names], np.int64))


def _depth(
    encoder: Encoder, folds: int, views: Sequence[NDArray[np.float32]], right: Sequence[NDArray[np.bool_]]
) -> Depth:
    shares = _shares(encoder)
    best = max(right, key=lambda each: each.mean())
    within = [best.mean() - each.mean() <= difference_error(best, each) for each in right]
    probes = [
        PartProbe(part, view.shape[1], float(each.mean()), wilson_interval(int(each.sum()), len(each)), shares[part])
        for part, view, each in zip(shares, views, right, strict=True)
    ]
    return Depth(encoder.name, len(best), folds, tuple(probes), probes[within.index(True)].part)


def _shares(encoder: Encoder) -> dict[str, float]:
    """Return for each part, in order, the share of all parameters that lie in it and before it."""
    sizes = {label: 0 for label, names in encoder.anatomy.parts() if names and label != "head"}
    total = 0
    for name, parameter in encoder.model.named_parameters():
        total += parameter.numel()
        if (part := encoder.anatomy.part_of(name)) in sizes:
            sizes[part] += parameter.numel()
    shares = dict(zip(sizes, (float(sum_) / total for sum_ in accumulate(sizes.values())), strict=True))
    return shares | {HEAD_INPUT: max(shares.values())}
