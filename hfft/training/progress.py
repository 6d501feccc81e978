"""How far a training has come: what each phase did, the log, and what the result is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerState

from hfft.cache.engines import EngineUse
from hfft.cache.prepare import Prepared
from hfft.metrics import PairedDifference
from hfft.tasks.contract import Targets, Task
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.baselines import LinearProbe
from hfft.training.callbacks import Best
from hfft.training.plan_view import PartView, PhaseView
from hfft.trust.epoch_answers import EpochAnswers


@dataclass(frozen=True)
class CacheUse:
    """What the activation cache did for a phase.

    Args:
        mode: gpu, memory, disk or off.
        bytes: of activations.
        rows: in the cache.
        computed: rows that were not there yet.
        wait_seconds: time spent waiting for decoded images.
        prefix_seconds: time spent in the frozen prefix.
        reason_off: why activations are not cached.
        engine: what computed the prefix.
    """

    mode: str
    bytes: int
    rows: int
    computed: int
    wait_seconds: float
    prefix_seconds: float
    reason_off: str
    engine: EngineUse = field(default_factory=EngineUse)

    @classmethod
    def of(cls, prepared: Prepared) -> CacheUse:
        """Read it off a phase that is ready."""
        place, reports = prepared.placement, prepared.reports.values()
        return cls(
            mode="off" if place is None else place.name,
            bytes=prepared.bytes,
            rows=sum(report.rows for report in reports),
            computed=sum(report.computed for report in reports),
            wait_seconds=sum(report.wait_seconds for report in reports),
            prefix_seconds=sum(report.prefix_seconds for report in reports),
            reason_off=prepared.uncached_reason,
            engine=prepared.engine,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CacheUse:
        """Read back what `dataclasses.asdict` made of one."""
        return cls(**data | {"engine": EngineUse(**data["engine"])})


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
        return cls(**data | {"view": PhaseView(**view | {"parts": parts}), "cache": CacheUse.from_dict(data["cache"])})


@dataclass
class Baselines:
    """What a result is compared with.

    Args:
        predictions: what each baseline answered for each evaluated split, as the task's answers.
        seconds: that they took.
        task: what the labels mean.
        features: what the pretrained head read of the images that are drawn, by split, shape (images, features), at
            unit length; none of a task that draws none.
    """

    predictions: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    task: Task = SINGLE_LABEL
    features: dict[str, NDArray[np.float16]] = field(default_factory=dict, repr=False)

    def add_full(self, predictions: dict[str, NDArray[Any]], seconds: float) -> None:
        """Add what full fine-tuning predicted."""
        self.predictions["full_fine-tuning"] = predictions
        self.seconds += seconds

    def metrics(self, split: str, truth: Targets) -> dict[str, dict[str, float]]:
        """Return the metrics of each baseline on one split."""
        return {
            name: self.task.compared(by_split[split], truth)
            for name, by_split in self.predictions.items()
            if split in by_split
        }

    def differences(self, split: str, answers: NDArray[Any], truth: Targets) -> dict[str, PairedDifference]:
        """Compare a model that gave these answers with each baseline on one split, where the task knows how."""
        found = {
            name: self.task.difference(answers, by_split[split], truth)
            for name, by_split in self.predictions.items()
            if split in by_split
        }
        return {name: difference for name, difference in found.items() if difference is not None}


@dataclass
class Progress:
    """How far a training has come; it is filled in as phases end.

    Args:
        phases: what each phase that has ended did.
        log: the Trainer's log over all phases, with epochs and steps of the whole run and the phase's name.
        best: the best weights so far.
        changed: names of all tensors that training may have changed so far.
        baselines: what the result is compared with.
        probe: what the head can hold in place of what is trained; None where it cannot, or need not.
        untrained: the metrics of the validation images with that probe; empty where it was not a candidate.
        probe_kept: whether that probe is what is handed back.
        decisions: what the run decided by its images, a sentence each.
        stepped: whether an optimizer step was made, so that the weights are no longer the pretrained ones.
        written: whether the results are in the output folder.
        own_units: whether a head that learned numbers has been scaled to their own units.
        identity: by name, what another run must share to be the same; see `hfft.training.resume.identity_of`.
        answers: what was said of the validation images at each evaluation.
    """

    phases: list[PhaseResult] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list, repr=False)
    best: Best = field(default_factory=Best)
    changed: frozenset[str] = field(default=frozenset(), repr=False)
    baselines: Baselines = field(default_factory=Baselines)
    probe: LinearProbe | None = field(default=None, repr=False)
    untrained: dict[str, float] = field(default_factory=dict)
    probe_kept: bool = False
    decisions: list[str] = field(default_factory=list)
    stepped: bool = False
    written: bool = False
    own_units: bool = False
    identity: dict[str, Any] = field(default_factory=dict, repr=False)
    answers: EpochAnswers = field(default_factory=EpochAnswers, repr=False)

    @property
    def epochs(self) -> float:
        """Passes over the training images, in the phases that have ended."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def steps(self) -> int:
        """Optimizer steps in the phases that have ended."""
        return sum(phase.steps for phase in self.phases)

    def add(self, result: PhaseResult, log: Sequence[dict[str, Any]]) -> None:
        """Note that a phase has ended, with the Trainer's log of it."""
        for entry in log:
            place = {"epoch": self.epochs + entry["epoch"], "step": self.steps + entry["step"]}
            self.log.append({**entry, **place, "phase": result.view.name})
        self.phases.append(result)

    def continuous(self, last: TrainerState, planned: float) -> TrainerState:
        """Return the state of the last phase's Trainer as if all phases had been one training of `planned` epochs."""
        steps, epochs = self.steps, self.epochs
        ended = replace(last, log_history=self.log, global_step=steps, max_steps=steps)
        return replace(ended, epoch=epochs, num_train_epochs=round(planned))
