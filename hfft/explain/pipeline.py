"""Look inside a finished model: the method's five stages, and one image followed through them.

Everything is computed from the loaded model and its run's record; the anatomy travels in the record, so no
plugin is needed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hfft.data.images import upright_rgb
from hfft.data.preprocessing import collate
from hfft.explain.forward_pass import ForwardPass, PartPass, watch
from hfft.explain.gradcam import ActivationMap, class_activation_map
from hfft.inference.classifier import Classifier
from hfft.planning.anatomy_file import anatomy_from_dict, check_anatomy
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import Anatomy
from hfft.report.record import PartRecord
from hfft.tasks.contract import Score

STAGES = ("Input image", "Preprocessing", "Frozen part", "Retrained part", "Head")


@dataclass(frozen=True)
class PartTrace:
    """One part of the anatomy, as one image passed through it.

    Args:
        part: stem, block 1 .. block n, neck or head.
        modules: names it covers.
        parameters: how many elements it has.
        trained: how many of them were trained.
        shape: of its output for one image, without the batch; empty where it gives out no tensor.
        low: smallest value of the output.
        high: largest value of the output.
        seconds: within it.
        flops: floating-point operations, two for each multiply-add.
    """

    part: str
    modules: tuple[str, ...]
    parameters: int
    trained: int
    shape: tuple[int, ...]
    low: float
    high: float
    seconds: float
    flops: int


@dataclass(frozen=True)
class Stage:
    """One of the five stages of the method.

    Args:
        name: one of `STAGES`.
        parts: the anatomy's parts that belong to it; none for the first two stages.
        shape: of what it gives out, with the batch: (1, height, width, 3) for an image.
        low: smallest value of what it gives out.
        high: largest value of what it gives out.
        seconds: that it took.
        parameters: elements of its parts.
        parameter_share: of all parameters, 0 to 1.
        flops: floating-point operations.
        flop_share: of all of them, 0 to 1.
        note: what it does, in words.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    low: float
    high: float
    seconds: float
    parameters: int = 0
    parameter_share: float = 0.0
    flops: int = 0
    flop_share: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class PipelineTrace:
    """One image on its way through the five stages.

    Args:
        image: as given, upright, in RGB.
        seen: as the model sees it: resized and cut, the normalisation undone; None where the model's input
            is not an image.
        stages: five, in order.
        parts: of the anatomy, in order of depth.
        forward: the pass itself, with each part's output.
        scores: labels with their probabilities, best first, or numbers.
    """

    image: Image.Image
    seen: Image.Image | None
    stages: tuple[Stage, ...]
    parts: tuple[PartTrace, ...]
    forward: ForwardPass
    scores: tuple[Score, ...]


def anatomy_of(classifier: Classifier) -> Anatomy:
    """Return a model's anatomy: its record's, or that of a plugin where it has no record.

    Raises:
        HfftError: there is no record and no plugin knows the model, or the record's anatomy does not fit.
    """
    if classifier.record is None or not classifier.record.anatomy:
        return find_anatomy(classifier.model)
    anatomy = anatomy_from_dict(classifier.record.anatomy)
    check_anatomy(anatomy, classifier.model)
    return anatomy


def part_records(classifier: Classifier, anatomy: Anatomy) -> list[PartRecord]:
    """Return each part's parameters and how many of them were trained, none where there is no record."""
    if classifier.record is not None and classifier.record.parts:
        return classifier.record.parts
    counts = {label: 0 for label, _ in anatomy.parts()}
    for name, parameter in classifier.model.named_parameters():
        counts[anatomy.part_of(name)] += parameter.numel()
    return [PartRecord(label, count, 0) for label, count in counts.items()]


def model_inputs(classifier: Classifier, image: Image.Image) -> dict[str, Tensor]:
    """Return one image's model inputs, with a batch dimension of 1, on the model's device."""
    inputs = collate([classifier.pixels(upright_rgb(image))])
    return {name: tensor.to(classifier.model.device) for name, tensor in inputs.items()}


def activation_map(classifier: Classifier, image: Image.Image, label: int | None = None) -> ActivationMap | None:
    """Return where the evidence for a class lies in an image, see `hfft.explain.gradcam.class_activation_map`.

    Raises:
        HfftError: the model's anatomy is not known.
    """
    return class_activation_map(classifier.model, anatomy_of(classifier), model_inputs(classifier, image), label)


def pipeline_trace(classifier: Classifier, image: Image.Image) -> PipelineTrace:
    """Follow one image through the five stages of the method.

    Args:
        classifier: with the record of its run.
        image: in any mode.

    Raises:
        HfftError: the model's anatomy is not known.
    """
    anatomy = anatomy_of(classifier)
    began = time.perf_counter()
    inputs = model_inputs(classifier, image)
    preprocessing = time.perf_counter() - began
    upright = upright_rgb(image)
    forward = watch(classifier.model, anatomy, inputs)
    records = part_records(classifier, anatomy)
    names = dict(anatomy.parts())
    parts = tuple(_part(record, names[record.name], forward.parts[record.name]) for record in records)
    stages = (
        _image_stage(upright),
        _preprocessing_stage(classifier, inputs, preprocessing),
        *_model_stages(parts, forward, classifier.probabilities(forward.logits), classifier.task.gives),
    )
    return PipelineTrace(
        upright, seen_image(classifier, inputs), stages, parts, forward, scores_of(classifier, forward.logits)
    )


def scores_of(classifier: Classifier, logits: Tensor) -> tuple[Score, ...]:
    """Return what is shown of a model's answer: its most likely labels, or its numbers."""
    task, labels = classifier.task, classifier.labels
    return task.bars(task.answer(classifier.probabilities(logits)[0], labels, task.shown), labels)


def seen_image(classifier: Classifier, inputs: dict[str, Tensor]) -> Image.Image | None:
    """Return the model's input as an image, the normalisation undone; None where the input is not an image."""
    name = image_input(inputs)
    if name is None:
        return None
    values = inputs[name][0].float().cpu()
    if (scale := normalisation(classifier)) is not None:
        mean, std = scale
        values = values * std + mean
    elif values.min() < 0 or values.max() > 1:
        values = (values - values.min()) / (values.max() - values.min()).clamp_min(1e-12)
    return Image.fromarray((values.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy())


def image_input(inputs: dict[str, Tensor]) -> str | None:
    """Return the name of the input that is an image, (batch, channels, height, width); None where there is none."""
    return next((name for name, tensor in inputs.items() if tensor.ndim == 4 and tensor.shape[1] in (1, 3)), None)


def normalisation(classifier: Classifier) -> tuple[Tensor, Tensor] | None:
    """Return the mean and deviation that pixels are normalised with, (channels, 1, 1) each; None for none."""
    mean, std = (_setting(classifier.pixels.processor.to_dict(), key) for key in ("mean", "std"))
    if mean is None or std is None:
        return None
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)


def _part(record: PartRecord, modules: tuple[str, ...], passed: PartPass) -> PartTrace:
    output = passed.output
    shape = () if output is None else tuple(output.shape[1:])
    low, high = (0.0, 0.0) if output is None else (float(output.min()), float(output.max()))
    return PartTrace(
        record.name, modules, record.parameters, record.trained, shape, low, high, passed.seconds, passed.flops
    )


def _image_stage(image: Image.Image) -> Stage:
    pixels = np.asarray(image)
    note = "As it was given: red, green and blue from 0 to 255 for each pixel."
    return Stage(STAGES[0], (), (1, *pixels.shape), float(pixels.min()), float(pixels.max()), 0.0, note=note)


def _preprocessing_stage(classifier: Classifier, inputs: dict[str, Tensor], seconds: float) -> Stage:
    tensor = next(iter(inputs.values())).float()
    grey = "Turned grey, " if classifier.pixels.grey else ""
    note = f"{grey}{'resized' if grey else 'Resized'}, scaled and normalised exactly as in training."
    mean, std = (_setting(classifier.pixels.processor.to_dict(), key) for key in ("mean", "std"))
    if mean is not None and std is not None:
        note += f" Mean {_plain(mean)} is taken off and the rest divided by {_plain(std)}."
    if tensor.ndim == 4 and tensor.shape[1] == 3:
        note += " From here on the channels come first."
    return Stage(STAGES[1], (), tuple(tensor.shape), float(tensor.min()), float(tensor.max()), seconds, note=note)


def _model_stages(
    parts: Sequence[PartTrace], forward: ForwardPass, shares: NDArray[np.float32], given: str
) -> list[Stage]:
    frozen = [part for part in parts if not part.trained and part.part != "head"]
    retrained = [part for part in parts if part.trained and part.part != "head"]
    head = [part for part in parts if part.part == "head"]
    total = sum(part.parameters for part in parts)
    stages = []
    for name, members, note in (
        (STAGES[2], frozen, "Pretrained and never changed: it turns pixels into features."),
        (STAGES[3], retrained, "Pretrained, then trained further on the run's own images."),
        (STAGES[4], head, f"Turns the features into {given}."),
    ):
        last = next((part for part in reversed(members) if part.shape), None)
        shape, low, high = ((1, *last.shape), last.low, last.high) if last else ((), 0.0, 0.0)
        if name == STAGES[4]:
            shape, low, high = shares.shape, float(shares.min()), float(shares.max())
        parameters, flops = sum(part.parameters for part in members), sum(part.flops for part in members)
        stages.append(
            Stage(
                name=name,
                parts=tuple(part.part for part in members),
                shape=shape,
                low=low,
                high=high,
                seconds=sum(part.seconds for part in members),
                parameters=parameters,
                parameter_share=parameters / max(total, 1),
                flops=flops,
                flop_share=flops / max(forward.flops, 1),
                note=note if members else "Empty under this policy.",
            )
        )
    return stages


def _setting(settings: dict[str, Any], key: str) -> list[float] | None:
    """Return the mean or deviation that an image processor normalises with, wherever it keeps it."""
    if settings.get("do_normalize") is False:
        return None
    for place in (settings, settings.get("data_config") or {}, settings.get("pretrained_cfg") or {}):
        value = place.get(f"image_{key}", place.get(key))
        if isinstance(value, list | tuple) and len(value) in (1, 3):
            return [float(item) for item in value]
    return None


def _plain(values: list[float]) -> str:
    shown = [f"{value:g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else "(" + ", ".join(shown) + ")"
