"""Backbones compared on the images themselves, by cross-validated linear probes on what each one's head reads.

Transferability scores, which estimate it from labels and features alone, are not used: probes measure it, and cost one
pass through each frozen model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hfft.jobs.advice.compare import cached_megabytes, folds_of, ready_for
from hfft.jobs.advice.folds import cross_validate_probe
from hfft.metrics import WORDS
from hfft.report.terminal import aligned
from hfft.tasks.scored import Scored
from hfft.training.baselines import HeadInputs
from hfft.training.setup import Setup

_COLUMNS = ("95% interval", "ms an image", "MB cached", "parameters", "")


@dataclass(frozen=True)
class Backbone:
    """A pretrained model as the images see it.

    Args:
        model: its name.
        scored: how good the answers to all images are, each by a probe that never saw the image.
        milliseconds: an image's way through the frozen model, decoding included; 0 where some were cached already.
        megabytes: of its cached activations before the head.
        parameters: how many it has.
    """

    model: str
    scored: Scored
    milliseconds: float
    megabytes: float
    parameters: int


@dataclass(frozen=True)
class BackboneAdvice:
    """Which pretrained model to take, and why.

    Args:
        backbones: in the order in which they were named.
        model: the recommended one.
        reason: in a sentence.
        images: that were compared on.
        folds: of the cross-validation.
    """

    backbones: tuple[Backbone, ...]
    model: str
    reason: str
    images: int
    folds: int

    def __repr__(self) -> str:
        """Return a line; `print` draws the table."""
        return f"BackboneAdvice({self.model!r}, of {len(self.backbones)} models on {self.images} images)"

    def __str__(self) -> str:
        scored = self.backbones[0].scored
        columns = ("model", WORDS[scored.metric].name, *_COLUMNS)
        lines = aligned(columns, [self._cells(each) for each in self.backbones], words=(0, 2, 6))
        how = f"By {self.folds}-fold cross-validation of linear probes on {self.images} images; intervals are "
        how += f"{scored.method}'s."
        return "\n".join([*lines, "", how, self.reason])

    def _cells(self, each: Backbone) -> tuple[str, ...]:
        interval = "{:.3f} to {:.3f}".format(*each.scored.interval)
        took = f"{each.milliseconds:.1f}" if each.milliseconds else "cached"
        numbers = (took, f"{each.megabytes:.1f}", f"{each.parameters / 1e6:.1f}M")
        return each.model, f"{each.scored.score:.3f}", interval, *numbers, "<- recommended" * (each.model == self.model)

    def data(self) -> dict[str, Any]:
        """Return the same as plain data."""
        rows = []
        for each in self.backbones:
            values = {name: value for name, value in vars(each).items() if name != "scored"}
            rows.append(values | {each.scored.metric: each.scored.score, "interval": list(each.scored.interval)})
        plain = {"backbones": rows, "model": self.model, "reason": self.reason}
        return {**plain, "metric": self.backbones[0].scored.metric, "images": self.images, "folds": self.folds}


def compare_backbones(
    setups: Iterable[tuple[str, Setup]], folds: int | None, say: Callable[[str], None]
) -> BackboneAdvice:
    """Cross-validate a linear probe on each model's features of the same images.

    Args:
        setups: the name and the setup of each model, whose policy is ``head``; made one by one, so that one model at a
            time is in memory.
        folds: how many; by default as many as `hfft.jobs.advice.compare.folds_for` says.
        say: prints a line for the user.

    Raises:
        ArgumentError: there are fewer images than folds.
        DataError: a fold holds all images of all classes but one.
        HfftError: images or cache are not usable.
    """
    found = []
    count = 0
    for name, setup in setups:
        parts = folds_of(setup.sets.train, folds, setup.settings.training.seed)
        count = len(parts)
        say(f"{name}:")
        began = time.perf_counter()
        (ready,) = ready_for(setup, setup.plan.phases, say).by_trainable.values()
        reader = HeadInputs(setup, ready.prepared.suffix)
        features = reader.features(ready.prepared.datasets["plain"], "training")
        report = ready.prepared.reports.get("train")
        seconds = 0.0 if report is not None and report.computed < len(features) else time.perf_counter() - began
        task, labels = setup.sets.task, setup.sets.train.labels
        scored = task.scored(cross_validate_probe(features, parts, setup.settings.training.seed, task), labels)
        parameters = sum(parameter.numel() for parameter in setup.model.parameters())
        found.append(Backbone(name, scored, seconds / len(labels) * 1e3, cached_megabytes([ready]), parameters))
    model, reason = recommend_backbone(found)
    return BackboneAdvice(tuple(found), model, reason, found[0].scored.images, count)


def recommend_backbone(found: Sequence[Backbone]) -> tuple[str, str]:
    """Return the smallest model within one standard error of the most accurate one, and why in a sentence."""
    best = max(found, key=lambda each: each.scored.score)
    near = [each for each in found if best.scored.score - each.scored.score <= best.scored.error(each.scored)]
    chosen = min(near, key=lambda each: each.parameters)
    said = f"{chosen.model}, {chosen.scored.said}"
    if chosen is best:
        return (
            chosen.model,
            f"Recommended: {said}, the most accurate; no smaller one is within a standard error of it.",
        )
    error = best.scored.error(chosen.scored)
    return chosen.model, (
        f"Recommended: {said}, smaller than {best.model}, {best.scored.said}, and within one standard "
        f"error of it ({error:.3f})."
    )
