"""What a phase of training did, as plain data that survives an interruption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hfft.planning import PartView, PhaseView
from hfft.prepare import Prepared


@dataclass(frozen=True)
class CacheUse:
    """What the activation cache did for a phase.

    Args:
        mode: memory, disk or off.
        bytes: of activations.
        rows: in the cache.
        computed: rows that were not there yet.
        wait_seconds: time spent waiting for decoded images.
        prefix_seconds: time spent in the frozen prefix.
        reason_off: why activations are not cached.
    """

    mode: str
    bytes: int
    rows: int
    computed: int
    wait_seconds: float
    prefix_seconds: float
    reason_off: str

    @classmethod
    def of(cls, prepared: Prepared) -> CacheUse:
        """Read it off a phase that is ready."""
        place, reports = prepared.placement, prepared.reports.values()
        return cls(
            mode="off" if place is None else "memory" if place.in_memory else "disk",
            bytes=prepared.bytes,
            rows=sum(report.rows for report in reports),
            computed=sum(report.computed for report in reports),
            wait_seconds=sum(report.wait_seconds for report in reports),
            prefix_seconds=sum(report.prefix_seconds for report in reports),
            reason_off=prepared.uncached_because,
        )


@dataclass(frozen=True)
class PhaseResult:
    """What one phase of training did.

    Args:
        view: the phase.
        cache: what the activation cache did for it.
        trainable_tensors: count of those that learned.
        frozen_tensors: count of parameters and buffers that did not.
        frozen_before: SHA-256 of the frozen tensors before the phase.
        frozen_after: and after it.
        train_metrics: the Trainer's own.
        epochs: passes made; fewer than planned where the phase stopped early.
        steps: optimizer steps made.
        best_epoch: epochs of the whole run after which the best weights so far were seen.
        learning_rate: that factors of parameters are multiplied with.
    """

    view: PhaseView
    cache: CacheUse
    trainable_tensors: int
    frozen_tensors: int
    frozen_before: str
    frozen_after: str
    train_metrics: dict[str, float]
    epochs: float
    steps: int
    best_epoch: float
    learning_rate: float

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PhaseResult:
        """Read back what `dataclasses.asdict` and JSON made of one."""
        view = data["view"]
        parts = tuple(
            PartView(**part | {"modules": tuple(part["modules"]), "shape": part["shape"] and tuple(part["shape"])})
            for part in view["parts"]
        )
        return cls(**data | {"view": PhaseView(**view | {"parts": parts}), "cache": CacheUse(**data["cache"])})
