"""A run: its settings, what it has done so far, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback, TrainerState

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.cache.engines import EngineUse
from hfft.cache.prepare import Prepared
from hfft.data.load import ImageSets
from hfft.data.preprocessing import Pixels
from hfft.metrics import Accuracy, MacroF1, PairedDifference, paired_difference
from hfft.models.delta import Pretrained
from hfft.models.load import Base
from hfft.planning.plan import Plan
from hfft.training.callbacks import Best
from hfft.training.plan_view import PartView, PhaseView
from hfft.training.trackers import Trackers


@dataclass
class Settings:
    """Every option of a run, grouped as the command line groups them."""

    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    policy: PolicyArguments = field(default_factory=PolicyArguments)
    cache: CacheArguments = field(default_factory=CacheArguments)
    training: FinetuneArguments = field(default_factory=FinetuneArguments)


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
            mode="off" if place is None else "memory" if place.in_memory else "disk",
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
    """Predicted label numbers of each baseline for each evaluated split, and the seconds that they took."""

    predictions: dict[str, dict[str, NDArray[np.int64]]] = field(default_factory=dict)
    seconds: float = 0.0

    def add_full(self, predictions: dict[str, NDArray[np.int64]], seconds: float) -> None:
        """Add what full fine-tuning predicted."""
        self.predictions["full_fine-tuning"] = predictions
        self.seconds += seconds

    def figures(self, split: str, truth: NDArray[np.int64]) -> dict[str, dict[str, float]]:
        """Return accuracy and macro-F1 of each baseline on one split."""
        return {
            name: {
                **Accuracy().compute(predictions=by_split[split], references=truth),
                **MacroF1().compute(predictions=by_split[split], references=truth),
            }
            for name, by_split in self.predictions.items()
            if split in by_split
        }

    def differences(
        self, split: str, predicted: NDArray[np.int64], truth: NDArray[np.int64]
    ) -> dict[str, PairedDifference]:
        """Compare a model that predicted these label numbers, shape (images,), with each baseline on one split."""
        correct = predicted == truth
        return {
            name: paired_difference(correct, by_split[split] == truth)
            for name, by_split in self.predictions.items()
            if split in by_split
        }


@dataclass
class Run:
    """A finished run: everything that the results are written from.

    Args:
        settings: as given.
        sets: the images.
        model: fine-tuned, nothing frozen.
        processor: the model's image processor.
        base: what the model was before.
        pretrained: hashes of the tensors that the base gave.
        plan: what was trained when.
        phases: what each phase that has ended did.
        log: the Trainer's log over all phases, with epochs and steps of the whole run and the phase's name.
        best: the best weights so far.
        changed: names of all tensors that training may have changed so far.
        predictions: by split (validation, test), the Trainer's predictions.
        metrics: the Trainer's figures, by its own names for the splits (train, eval, test).
        state: the Trainer's at the end, over all phases.
        seconds: of wall time over the whole run, without full fine-tuning as a baseline.
        callbacks: that the caller adds to the Trainer's own.
        baselines: what the result is compared with.
        trackers: told of all phases as of one training.
        identity: by name, what another run must share to be the same; see `hfft.training.resume.identity_of`.
        stepped: an optimizer step has been made, so that there is something to lose.
        written: the results are in `folder`.
    """

    settings: Settings
    sets: ImageSets
    model: PreTrainedModel
    processor: BaseImageProcessor
    base: Base
    pretrained: Pretrained
    plan: Plan
    phases: list[PhaseResult] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    best: Best = field(default_factory=Best)
    changed: frozenset[str] = frozenset()
    predictions: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    state: TrainerState | None = None
    seconds: float = 0.0
    callbacks: tuple[TrainerCallback, ...] = ()
    baselines: Baselines = field(default_factory=Baselines)
    trackers: Trackers = field(default_factory=Trackers)
    identity: dict[str, Any] = field(default_factory=dict)
    stepped: bool = False
    written: bool = False

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.settings.training.output_dir or "")

    @property
    def plain_pixels(self) -> Pixels:
        """How images that are not augmented become model inputs."""
        return Pixels(self.processor, exact=self.settings.cache.exact)

    @property
    def drawn(self) -> list[str]:
        """Names of the figures, one for each phase, that are drawn into `folder` before the results are written."""
        phases = self.plan.phases if self.settings.training.find_lr else ()
        return [f"lr_finder-{number}.png" for number in range(1, len(phases) + 1)]

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

    def continuous(self, last: TrainerState) -> TrainerState:
        """Return the state of the last phase's Trainer as if all phases had been one training."""
        steps, epochs = self.steps, self.epochs
        planned = round(sum(phase.epochs for phase in self.plan.phases))
        return replace(
            last, log_history=self.log, global_step=steps, epoch=epochs, num_train_epochs=planned, max_steps=steps
        )
