"""The journey of one image: what each part of a model makes of it, laid over the picture, also of a changed picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F  # noqa: N812  (its usual name)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms
from transformers import PreTrainedModel

from hfft.explain.forward_pass import part_outputs
from hfft.explain.gradcam import class_activation_map, feature_maps
from hfft.explain.pipeline import (
    anatomy_of,
    image_input,
    model_inputs,
    normalisation,
    part_records,
    scores_of,
    seen_image,
)
from hfft.inference.classifier import Classifier
from hfft.plugin.contract import Anatomy
from hfft.tasks.contract import Score
from hfft.tasks.single_label import SINGLE_LABEL

MAPS = 3
"""Channels shown of each part, beside the mean over all of them."""
_GREY = 0.5  # of what is covered, or turned in from outside, before normalisation
_SIDE = 56  # most cells of a map's side that are sent; a finer one is averaged


@dataclass(frozen=True)
class Change:
    """What is done to the picture that a model sees, in this order.

    Args:
        crop: share of each side that is cut away, half of it on either end, 0 to 0.9; the rest is enlarged.
        turn: degrees, counter-clockwise.
        dark: how much of the light is taken, 0 to 1.
        cover: left, top, width and height of a grey square, in shares of the picture, 0 to 1; None for none.
    """

    crop: float = 0.0
    turn: float = 0.0
    dark: float = 0.0
    cover: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Layer:
    """Values that are laid over the picture.

    Args:
        name: for people.
        values: shape (rows, columns), scaled to 0 .. 1.
    """

    name: str
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Stop:
    """One part of the model on the way of an image.

    Args:
        part: stem, block 1 .. block n, neck or head.
        trained: how much of it was trained, 0 to 1.
        shape_in: what it is given, without the batch; what the part before it gave out.
        shape_out: what it gives out, without the batch.
        cells: rows and columns of its output, as it lies on the picture; None where it does not.
        maps: the mean over its channels and those that vary most; none where its output does not lie on the picture.
        base: the same of the base model; none where there is no base, or the part was not trained.
    """

    part: str
    trained: float
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    cells: tuple[int, int] | None
    maps: tuple[Layer, ...]
    base: tuple[Layer, ...]


@dataclass(frozen=True)
class Journey:
    """One image on its way from picture to probabilities.

    Args:
        seen: the picture that goes in, changed as was asked for; None where the model's input is not an image.
        stops: the parts in order of depth.
        evidence: where the evidence for the most likely class, or the first number, lies; None where that cannot be
            told.
        scores: labels with their probabilities, best first, or numbers.
        unknown_score: how unlike the training images it is, above 1 unknown; None where the model came without them.
        untold: why that is not known; empty where it is, or the model came without them.
        made: what is made of the head's sums, in a sentence.
    """

    seen: Image.Image | None
    stops: tuple[Stop, ...]
    evidence: Layer | None
    scores: tuple[Score, ...]
    unknown_score: float | None
    untold: str = ""
    made: str = SINGLE_LABEL.made


def journey(
    classifier: Classifier, image: Image.Image, change: Change | None = None, base: PreTrainedModel | None = None
) -> Journey:
    """Follow an image through a model.

    Args:
        classifier: the model.
        image: in any mode.
        change: what is done to the picture that the model sees; None for nothing.
        base: the model that the training began from, to show the trained parts beside its own.

    Raises:
        HfftError: the model's anatomy is not known.
    """
    anatomy = anatomy_of(classifier)
    inputs = changed_inputs(classifier, model_inputs(classifier, image), change)
    outputs, logits = part_outputs(classifier.model, anatomy, inputs)
    twins = part_outputs(base, anatomy, inputs)[0] if base is not None else {}
    seen = seen_image(classifier, inputs)
    shape = () if (name := image_input(inputs)) is None else tuple(inputs[name].shape[1:])
    stops: list[Stop] = []
    for record in part_records(classifier, anatomy):
        output = outputs.get(record.name)
        if output is None:
            continue
        given = stops[-1].shape_out if stops else shape
        trained = record.trained / record.parameters if record.parameters else 0.0
        twin = twins.get(record.name) if trained else None
        maps, before, cells = _layers(anatomy, output, twin)
        stops.append(Stop(record.name, trained, given, tuple(output.shape[1:]), cells, maps, before))
    scores = scores_of(classifier, logits)
    evidence, task = _evidence(classifier, anatomy, inputs, scores[0].label), classifier.task
    return Journey(seen, tuple(stops), evidence, scores, _unknown(classifier, inputs), task.missing, task.made)


def changed_inputs(classifier: Classifier, inputs: dict[str, Tensor], change: Change | None) -> dict[str, Tensor]:
    """Return one image's model inputs with a change made to the picture in them; without a change, the same ones.

    Args:
        classifier: whose inputs they are.
        inputs: with a batch dimension of 1.
        change: to make.
    """
    name = image_input(inputs)
    if name is None or change is None or change == Change():
        return inputs
    pixels = inputs[name]
    scale = normalisation(classifier)
    mean, std = (part.to(pixels) for part in scale) if scale is not None else (0.0, 1.0)
    picture = _changed(pixels * std + mean, change)
    return {**inputs, name: (picture - mean) / std}


def _changed(picture: Tensor, change: Change) -> Tensor:
    """Change a picture of shape (1, channels, height, width) whose values lie between 0 and 1."""
    height, width = picture.shape[-2:]
    if change.crop:
        rows, columns = (max(1, round(side * (1 - change.crop))) for side in (height, width))
        cut = transforms.center_crop(picture, [rows, columns])
        picture = F.interpolate(cut, size=(height, width), mode="bilinear", antialias=False)
    if change.turn:
        bilinear = transforms.InterpolationMode.BILINEAR
        picture = transforms.rotate(picture, change.turn, bilinear, fill=[_GREY] * picture.shape[1])
    if change.dark:
        picture = picture * (1 - change.dark)
    if change.cover is not None:
        left, top, across, down = change.cover
        x, y = round(left * width), round(top * height)
        picture = picture.clone()
        picture[..., y : y + max(1, round(down * height)), x : x + max(1, round(across * width))] = _GREY
    return picture


def _layers(
    anatomy: Anatomy, output: Tensor, twin: Tensor | None
) -> tuple[tuple[Layer, ...], tuple[Layer, ...], tuple[int, int] | None]:
    """Return the maps of a part's output, those of the base model's, and the cells of the output."""
    maps = feature_maps(output, anatomy.tokens)
    if maps is None or min(maps.shape[1:]) < 2:
        return (), (), None
    twins = None if twin is None else feature_maps(twin, anatomy.tokens)
    if twins is not None and twins.shape != maps.shape:
        twins = None
    cells = (int(maps.shape[1]), int(maps.shape[2]))
    if twins is None:
        order = maps.flatten(1).std(1, correction=0).topk(min(MAPS, len(maps))).indices.tolist()
        return _named(maps, order, None), (), cells
    order = (maps - twins).abs().mean((1, 2)).topk(min(MAPS, len(maps))).indices.tolist()
    return _named(maps, order, twins), _named(twins, order, maps), cells


def _named(maps: Tensor, order: Sequence[int], beside: Tensor | None) -> tuple[Layer, ...]:
    """Return the mean of all channels' sizes and single channels, each on one scale with what stands beside it."""
    means = [each.abs().mean(0) for each in (maps, beside) if each is not None]
    layers = [Layer("all channels, mean size", _scaled(means[0], means))]
    for number in order:
        pair = [each[number] for each in (maps, beside) if each is not None]
        layers.append(Layer(f"channel {number}", _scaled(pair[0], pair)))
    return tuple(layers)


def _scaled(values: Tensor, scale: Sequence[Tensor]) -> NDArray[np.float32]:
    """Scale values to 0 .. 1 by the lowest and highest of several maps; a fine map is averaged to fewer cells."""
    low, high = min(float(each.min()) for each in scale), max(float(each.max()) for each in scale)
    shown = (values - low) / max(high - low, 1e-12)
    if max(shown.shape) > _SIDE:
        rows, columns = (min(side, _SIDE) for side in shown.shape)
        shown = F.adaptive_avg_pool2d(shown[None, None], (rows, columns))[0, 0]
    return shown.numpy().astype(np.float32)


def _evidence(classifier: Classifier, anatomy: Anatomy, inputs: dict[str, Tensor], label: str) -> Layer | None:
    found = class_activation_map(classifier.model, anatomy, inputs, classifier.labels.index(label))
    return None if found is None else Layer(f"evidence for {label}", found.values)


def _unknown(classifier: Classifier, inputs: dict[str, Tensor]) -> float | None:
    _, found = classifier.outputs(inputs)
    return None if found is None else found[0].score
