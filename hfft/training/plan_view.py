"""Phases as people and programs read them: parts, parameters, boundary, cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from hfft.planning.plan import Phase, Plan
from hfft.report.terminal import can_encode
from hfft.split.cut import Cut


@dataclass(frozen=True)
class PartView:
    """One part of the anatomy in one phase.

    Args:
        part: stem, block 1 .. block n, neck or head.
        modules: the names it covers.
        parameters: count of all its parameters.
        trainable: count of those that learn.
        lr_scale: factor on the learning rate; 0 where nothing learns.
        shape: of the part's output for one image, without the batch; None where it is not one tensor.
    """

    part: str
    modules: tuple[str, ...]
    parameters: int
    trainable: int
    lr_scale: float
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PhaseView:
    """One phase of a plan, for people and programs.

    Args:
        name: of the phase.
        epochs: passes over the training images.
        parts: in order of depth.
        boundary: first module of the suffix; empty where there is no frozen prefix.
        cache_bytes_per_image: what one image's activations take; 0 where they are not cached.
        uncached_reason: why not; empty where they are.
        gradient_ratio: whether learning rates are multiplied by ratios measured when the phase begins.
    """

    name: str
    epochs: float
    parts: tuple[PartView, ...]
    boundary: str
    cache_bytes_per_image: int
    uncached_reason: str
    gradient_ratio: bool = False

    @property
    def parameters(self) -> int:
        """Count of all parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def trainable(self) -> int:
        """Count of parameters that learn."""
        return sum(part.trainable for part in self.parts)


def view_phase(model: PreTrainedModel, plan: Plan, phase: Phase, cut: Cut) -> PhaseView:
    """Describe a phase of a model that is frozen as the phase says.

    Args:
        model: on the device of `inputs`.
        plan: gives the anatomy.
        phase: one of the plan's.
        cut: what `hfft.split.cut.cut_phase` found.
    """
    boundary = cut.split.boundary if cut.split else ""
    size = sum(leaf.bytes_per_image for leaf in cut.split.leaves) if cut.split else 0
    parts = []
    for label, names in plan.anatomy.parts():
        tensors = {n: p.numel() for n, p in model.named_parameters() if plan.anatomy.part_of(n) == label}
        learning = [name for name in tensors if name in phase.trainable]
        scale = max((phase.lr_scales[name] for name in learning), default=0.0)
        shape = cut.recording.output_shape(names[-1]) if names else None
        parts.append(PartView(label, names, sum(tensors.values()), sum(tensors[n] for n in learning), scale, shape))
    return PhaseView(phase.name, phase.epochs, tuple(parts), boundary, size, cut.uncached_reason, phase.gradient_ratio)


def plan_tree(model_name: str, views: Sequence[PhaseView], learning_rate: float) -> str:
    """Draw phases as trees for the terminal: the first in full, of the others what changes.

    Args:
        model_name: for the headline.
        views: the phases, in order.
        learning_rate: that the parts' factors are multiplied with.
    """
    lines = [f"{model_name}: {_count(views[0].parameters)} parameters"]
    before: PhaseView | None = None
    last, other = ("└─", "├─") if can_encode("└─├", getattr(sys.stdout, "encoding", None)) else ("`-", "|-")
    for number, view in enumerate(views, start=1):
        which = f"phase {number} of {len(views)}, {view.name}, {view.epochs:g} epochs," if before or views[1:] else ""
        share = view.trainable / view.parameters
        lines.append(f"{which or f'policy {view.name}'} trains {_count(view.trainable)} ({share:.1%})")
        same = zip(view.parts, before.parts, strict=True) if before else ((part, None) for part in view.parts)
        changed = [part for part, earlier in same if part != earlier]
        for part in changed:
            lines.append(f"{last if part is changed[-1] else other} {_part_line(part, view, learning_rate)}")
        lines += _cache_lines(view)
        before = view
    return "\n".join(lines)


def plan_data(model_name: str, views: Sequence[PhaseView], learning_rate: float) -> dict[str, Any]:
    """Return the same as plain data for ``--json``."""
    phases = []
    for view in views:
        rates = {part.part: learning_rate * part.lr_scale for part in view.parts if part.trainable}
        totals = {"parameters": view.parameters, "trainable": view.trainable, "learning_rates": rates}
        phases.append({**asdict(view), **totals})
    return {"model": model_name, "phases": phases}


def _part_line(part: PartView, view: PhaseView, learning_rate: float) -> str:
    state = f"trainable, learning rate {learning_rate * part.lr_scale:g}" if part.trainable else "frozen"
    if part.trainable and view.gradient_ratio:
        state += " x a ratio measured for each tensor"
    if 0 < part.trainable < part.parameters:
        state = f"{_count(part.trainable)} {state}"
    if not part.parameters:
        state = "no parameters"
    shape = " -> " + "x".join(str(size) for size in part.shape) if part.shape else ""
    share = f"{part.parameters / view.parameters:>6.1%}"
    return f"{part.part:<9} {_count(part.parameters):>8} {share}  {state}  [{_shorten(part.modules)}]{shape}"


def _cache_lines(view: PhaseView) -> list[str]:
    if view.uncached_reason:
        return [f"Activation cache: off, {view.uncached_reason}"]
    stem = next((part.part for part in view.parts if view.boundary in part.modules), "") == "block 1"
    what = "the stem alone, which is all" if stem else "everything"
    return [
        f"Boundary: {what} before {view.boundary}{',' * stem} is the frozen prefix",
        f"Activation cache: {view.cache_bytes_per_image * 1000 / 1e6:,.1f} MB per 1,000 images",
    ]


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _shorten(names: tuple[str, ...], limit: int = 3) -> str:
    return ", ".join(names) if len(names) <= limit else f"{', '.join(names[:limit])}, +{len(names) - limit}"
