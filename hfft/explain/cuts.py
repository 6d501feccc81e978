"""Where a model can be cut into a frozen and a trained part, and what each cut trains, spares and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hfft.data.preprocessing import blank_inputs
from hfft.explain.forward_pass import watch
from hfft.explain.pipeline import anatomy_of, part_records
from hfft.inference.classifier import Classifier
from hfft.models.forward import Recording, record
from hfft.planning.plan import make_plan
from hfft.plugin.contract import Anatomy
from hfft.split.class_token import try_shortcut
from hfft.split.split import SplitError, boundary_of

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class CutPart:
    """One part of the anatomy, as one image passes through it.

    Args:
        name: stem, block 1 .. block n, neck or head.
        parameters: how many elements it has.
        flops: floating-point operations, two for each multiply-add.
        seconds: within it.
    """

    name: str
    parameters: int
    flops: int
    seconds: float


@dataclass(frozen=True)
class CutPlace:
    """One place to cut: what lies before it is frozen, the rest is trained.

    Args:
        policy: as ``--policy`` takes it.
        index: of the first part that is trained.
        kept: bytes of activations that one image leaves there, as 32-bit floats; 0 where nothing is frozen.
    """

    policy: str
    index: int
    kept: int


@dataclass(frozen=True)
class CutChart:
    """A model with all the places where a policy cuts it, from the stem to the head.

    Args:
        parts: of the anatomy, in order of depth; parts without parameters and arithmetic are left out.
        places: from the one that trains everything to the one that trains the head alone.
        labels: how many classes the head has.
    """

    parts: tuple[CutPart, ...]
    places: tuple[CutPlace, ...]
    labels: int

    def frozen(self, place: CutPlace) -> tuple[CutPart, ...]:
        """Return the parts before a place."""
        return self.parts[: place.index]

    def trained(self, place: CutPlace) -> tuple[CutPart, ...]:
        """Return the parts from a place on."""
        return self.parts[place.index :]

    def parameters(self, parts: Sequence[CutPart], labels: int) -> int:
        """Return how many parameters some parts have, with a head for as many classes; a head grows with its classes.

        Args:
            parts: of this model.
            labels: of the classes.
        """
        return sum(
            round(part.parameters * labels / self.labels) if part.name == "head" else part.parameters for part in parts
        )


def cut_chart(classifier: Classifier) -> CutChart:
    """Look where a model can be cut, on two images of noise. Nothing of the model changes.

    Raises:
        HfftError: the model's anatomy is not known.
    """
    anatomy, model = anatomy_of(classifier), classifier.model
    inputs = {name: tensor.to(model.device) for name, tensor in blank_inputs(classifier.pixels.processor).items()}
    passed = watch(model, anatomy, inputs)
    images = len(next(iter(inputs.values())))
    counts = {part.name: part.parameters for part in part_records(classifier, anatomy)}
    parts = tuple(
        CutPart(name, counts.get(name, 0), found.flops // images, found.seconds / images)
        for name, found in passed.parts.items()
        if counts.get(name) or found.flops
    )
    with torch.no_grad():
        _, recording = try_shortcut(model, anatomy, inputs, record(model, inputs))
    names = [part.name for part in parts]
    places = tuple(
        CutPlace(policy, names.index(first), _kept(classifier, anatomy, policy, recording) if names[0] != first else 0)
        for policy, first in cutting_policies(anatomy, names)
    )
    return CutChart(parts, places, max(len(classifier.labels), 1))


def cutting_policies(anatomy: Anatomy, parts: Sequence[str]) -> list[tuple[str, str]]:
    """Return the policies that cut a model in two, each with the first part that it trains, in order of depth.

    Args:
        anatomy: of the model.
        parts: names of the parts that there are.
    """
    count = len(anatomy.blocks)
    blocks = [(f"last_n:{count - number + 1}", f"block {number}") for number in range(1, count)]
    found = [("full", parts[0]), *blocks, ("last_block", f"block {count}"), ("head", "head")]
    firsts: dict[str, str] = {}
    for policy, first in found:
        if first in parts:
            firsts.setdefault(first, policy)  # without a stem, the first block and everything are the same
    return [(policy, first) for first, policy in firsts.items()]


def _kept(classifier: Classifier, anatomy: Anatomy, policy: str, recording: Recording) -> int:
    """Return the bytes of what the last module before a policy's boundary gives out for one image."""
    (phase,) = make_plan(classifier.model, anatomy, policy, 1.0).phases
    try:
        _, prefix = boundary_of(recording.calls, phase)
    except SplitError:
        return 0
    shape = recording.output_shape(prefix[-1]) or ()
    return _FLOAT * torch.Size(shape).numel()
