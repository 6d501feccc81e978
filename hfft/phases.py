"""Train the phases of a plan, one after the other, and prove of each that what is frozen stayed frozen."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hfft.arguments import FinetuneArguments
from hfft.baselines import Baselines, probe_baselines
from hfft.callbacks import Average, KeepBest, PhaseCallback, QuietProgress, Views
from hfft.cut import Cut, cut_phase
from hfft.errors import PreemptedError
from hfft.freezing import digest, freeze, frozen_tensors
from hfft.gradient_ratio import gradient_ratios
from hfft.lr_finder import find_learning_rate
from hfft.objective import Objective, balanced_weights
from hfft.pixels import Pixels, collate
from hfft.plan import Phase, ready_together
from hfft.planning import PartView, PhaseView, plan_tree, view_phase
from hfft.preemption import GO_ON, Preemption, StopAndSave
from hfft.prepare import (
    ImagesAndPixels,
    Prepared,
    choose_memory_format,
    describe,
    precision_of,
    prepare_phases,
    probe_inputs,
)
from hfft.resume import Checkpoint, Moment, PhaseCheckpoints, find_checkpoint
from hfft.trainer import FreezeTrainer, idle_parameters

if TYPE_CHECKING:
    from hfft.job import Run


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


@dataclass(frozen=True)
class ReadyPhase:
    """A phase that can be trained: its cut, its data and what it looks like."""

    phase: Phase
    cut: Cut
    prepared: Prepared
    view: PhaseView


def train_phases(run: Run, say: Callable[[str], None], preemption: Preemption | None = None) -> FreezeTrainer:
    """Train every phase, or those that an interrupted run has left; the last one's trainer judges the result.

    Args:
        run: set up; `run.phases`, `run.log` and `run.baselines` are filled in here.
        say: prints a line for the user.
        preemption: ends the training in good order when SIGTERM comes.

    Raises:
        ArgumentError: the checkpoint to resume from belongs to another run.
        PreemptedError: SIGTERM came, and where the checkpoint lies.
        HfftError: images, cache or output folder are not usable.
    """
    training, phases = run.settings.training, run.plan.phases
    memory_format = choose_memory_format(run.settings.cache.memory_format)
    nn.Module.to(nn.Module.to(run.model, training.device), memory_format=memory_format)
    resumed = find_checkpoint(training.resume_from_checkpoint, run.folder)
    if resumed is not None:
        resumed.check(identity_of(run))
        _restore(run, resumed)
        say(f"Resuming from {resumed.folder}.")
    elif training.resume_from_checkpoint:
        say(f"There is no checkpoint in {run.folder} yet: starting from the beginning.")
    ready: list[ReadyPhase] = []
    for index in range(resumed.phase if resumed is not None else 0, len(phases)):
        if not ready:
            ready = make_ready(run, phases[index : index + ready_together(phases[index:])], say)
            if training.baselines != "none" and training.process_index == 0 and not run.baselines.predictions:
                run.baselines = probe_baselines(run, ready[0].prepared)
        here = resumed if resumed is not None and resumed.phase == index else None
        trainer = _train_phase(run, ready.pop(0), here, preemption or Preemption(), say)
    trainer.state = run.continuous(trainer.state)
    return trainer


def make_ready(run: Run, phases: Sequence[Phase], say: Callable[[str], None]) -> list[ReadyPhase]:
    """Cut the model for each phase and fill their caches.

    Args:
        run: its model holds the weights that the first of the phases begins with.
        phases: in order; none of them may train what a later one freezes.
        say: prints a line for the user.
    """
    settings, training = run.settings, run.settings.training
    splits = _splits(run)
    probe = probe_inputs(splits["train"], training.device, choose_memory_format(settings.cache.memory_format))
    cuts, views = [], []
    for phase in phases:
        freeze(run.model, phase)
        shortcut, precision = settings.cache.class_token_shortcut, precision_of(training)
        cut = cut_phase(run.model, run.plan.anatomy, phase, probe, shortcut, precision)
        cuts.append((phase, cut))
        views.append(view_phase(run.model, run.plan, phase, cut))
    say(plan_tree(run.base.name, views, training.learning_rate))
    prepared = prepare_phases(run.model, run.plan.anatomy, cuts, splits, settings.cache, training)
    for each in prepared:
        say(describe(each))
    return [ReadyPhase(phase, cut, made, view) for (phase, cut), made, view in zip(cuts, prepared, views, strict=True)]


def identity_of(run: Run) -> dict[str, Any]:
    """Return, by name, everything that two runs must share for one to go on where the other stopped."""
    settings, training = run.settings, run.settings.training
    names = (
        *("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
        *("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "gradient_accumulation_steps"),
        *("per_device_train_batch_size", "seed", "data_seed", "label_smoothing_factor", "mixup", "class_weights"),
        *("ema_decay", "early_stopping_patience", "find_lr", "keep", "eval_strategy", "bf16", "fp16"),
    )
    return {
        "model": run.pretrained.sha256,
        "policy": run.plan.policy,
        "labels": list(run.sets.labels),
        "training images": run.sets.train.fingerprint(),
        "validation images": run.sets.validation.fingerprint(),
        "preprocessing": Pixels(run.processor, settings.data.augment, training.seed).fingerprint(),
        "views": settings.data.views,
        "head_lr_scale": settings.policy.head_lr_scale,
        "layer_decay": settings.policy.layer_decay,
        "cache_dtype": settings.cache.cache_dtype,
        "memory_format": settings.cache.memory_format,
        "class_token_shortcut": settings.cache.class_token_shortcut,
        "processes": training.world_size,
        **{name: getattr(training, name) for name in names},
    }


def _train_phase(
    run: Run, ready: ReadyPhase, resumed: Checkpoint | None, preemption: Preemption, say: Callable[[str], None]
) -> FreezeTrainer:
    """Train one phase with an evaluation after each epoch."""
    training, phase = run.settings.training, ready.phase
    names = _changing(run.model, phase)
    run.changed |= names
    freeze(run.model, phase)
    before = digest(frozen_tensors(run.model, phase))
    learning_rate = _learning_rate(run, ready, resumed, say)
    trainer = _make_trainer(run, ready, learning_rate)
    _scale_by_gradients(trainer, resumed)
    keep = training.keep == "best" and training.eval_strategy != "no"
    best = KeepBest(run.best, names, run.epochs, training.early_stopping_patience, keep)
    if training.eval_strategy != "no":
        trainer.add_callback(best)
    if training.ema_decay is not None:
        trainer.average = Average(names, training.ema_decay)
        trainer.callback_handler.callbacks.insert(0, trainer.average)  # before the best weights are put back
    done = {"phases": [asdict(each) for each in run.phases], "log": run.log, "baselines": _plain(run.baselines)}
    moment = Moment(identity_of(run), len(run.phases), done, run.steps, run.changed, run.best, trainer.average)
    moment.lr_scales, moment.learning_rate = trainer.phase.lr_scales, learning_rate
    checkpoints = PhaseCheckpoints(run.folder, moment, resumed)
    trainer.checkpoints = checkpoints
    if resumed is not None:
        resumed.restore(run.best, trainer.average, training.device)
        trainer.add_callback(_OnTrainBegin(lambda: checkpoints.restore_sums(trainer)))
    stop = StopAndSave(preemption)
    trainer.add_callback(stop)
    preemption.training = True
    try:
        outcome = trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed is not None else None)
    finally:
        preemption.training = False
    if stop.saved:
        raise PreemptedError(f"stopped by SIGTERM; {checkpoints.newest} holds its state: {GO_ON}")
    trainer.release()
    after = digest(frozen_tensors(run.model, phase))
    if before != after:
        raise RuntimeError("a frozen tensor changed during training; this is a bug in hfft, please report it")
    run.add(
        PhaseResult(
            ready.view,
            CacheUse.of(ready.prepared),
            trainable_tensors=len(phase.trainable),
            frozen_tensors=sum(1 for _ in frozen_tensors(run.model, phase)),
            frozen_before=before,
            frozen_after=after,
            train_metrics=outcome.metrics,
            epochs=float(trainer.state.epoch or 0.0),
            steps=trainer.state.global_step,
            best_epoch=run.best.epoch if keep else 0.0,
            learning_rate=learning_rate,
        ),
        trainer.state.log_history,
    )
    return trainer


def _learning_rate(run: Run, ready: ReadyPhase, resumed: Checkpoint | None, say: Callable[[str], None]) -> float:
    """Return the phase's learning rate: as given, as found by a range test, or as found before an interruption."""
    given = run.settings.training.learning_rate
    if resumed is not None:
        return float(resumed.record["learning_rate"])
    if not run.settings.training.find_lr:
        return given
    found = find_learning_rate(_make_trainer(run, ready, given), _changing(run.model, ready.phase))
    freeze(run.model, ready.phase)
    if run.settings.training.process_index == 0:
        from hfft.figures import rates_figure  # it draws; other runs do not wait for its imports

        target = run.folder / f"lr_finder-{len(run.phases) + 1}.png"
        rates_figure(found.tried, found.losses, found.learning_rate, target)
        say(f"Learning rate of phase {ready.phase.name}: {found.learning_rate:.2g}, from {target}.")
    return found.learning_rate


def _scale_by_gradients(trainer: FreezeTrainer, resumed: Checkpoint | None) -> None:
    """Multiply the factors of a phase that asks for it by measured ratios."""
    if resumed is not None:
        trainer.phase = replace(trainer.phase, lr_scales=resumed.record["lr_scales"])
    elif trainer.phase.gradient_ratio:
        ratios = gradient_ratios(trainer)
        scales = {name: scale * ratios[name] for name, scale in trainer.phase.lr_scales.items()}
        trainer.phase = replace(trainer.phase, lr_scales=scales)
        set_seed(trainer.args.seed)


def _splits(run: Run) -> dict[str, ImagesAndPixels]:
    data, seed = run.settings.data, run.settings.training.seed
    views = data.views if data.augment != "none" else 1
    views = min(views, math.ceil(run.settings.training.num_train_epochs))
    augmented = Pixels(run.processor, data.augment, seed)
    return {
        "train": ImagesAndPixels(run.sets.train, augmented, views),
        "validation": ImagesAndPixels(run.sets.validation, Pixels(run.processor)),
    }


def _make_trainer(run: Run, ready: ReadyPhase, learning_rate: float) -> FreezeTrainer:
    prepared, training = ready.prepared, _arguments_of(run, ready, learning_rate)
    set_seed(training.seed)
    datasets = prepared.datasets
    trainer = FreezeTrainer(
        run.model, training, ready.phase, prepared.suffix, datasets["train"], datasets["validation"]
    )
    trainer.objective = _objective(run)
    trainer.add_callback(Views(datasets["train"].set_epoch, run.epochs))  # type: ignore[attr-defined]
    for callback in run.callbacks:
        if isinstance(callback, PhaseCallback):
            callback.on_phase_begin(ready.phase.name, run.epochs)
        trainer.add_callback(callback)
    trainer.remove_callback(PrinterCallback)
    if not training.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(QuietProgress())
    return trainer


def _arguments_of(run: Run, ready: ReadyPhase, learning_rate: float) -> FinetuneArguments:
    """Return a phase's own copy of the training arguments."""
    training = copy.copy(run.settings.training)
    training.num_train_epochs = ready.phase.epochs
    training.learning_rate = learning_rate
    training.label_names = ["labels"]
    training.data_seed = training.seed if training.data_seed is None else training.data_seed
    if training.world_size > 1:
        freeze(run.model, ready.phase)
        batch = collate([ready.prepared.datasets["train"][row] for row in range(2)])
        moved = {name: tensor.to(training.device) for name, tensor in batch.items()}
        training.ddp_find_unused_parameters = bool(idle_parameters(run.model, ready.prepared.suffix, moved))
    return training


def _objective(run: Run) -> Objective:
    training, classes = run.settings.training, len(run.sets.labels)
    balanced = training.class_weights == "balanced"
    weights = balanced_weights(run.sets.train.labels.tolist(), classes) if balanced else None
    return Objective(classes, training.label_smoothing_factor, weights, training.mixup)


def _changing(model: PreTrainedModel, phase: Phase) -> frozenset[str]:
    """Names of all tensors of the state that this phase may change."""
    frozen = {name for name, _ in frozen_tensors(model, phase)}
    return frozenset(name for name in model.state_dict() if name not in frozen)


class _OnTrainBegin(TrainerCallback):
    """Does one thing when training begins."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.act()


def _restore(run: Run, checkpoint: Checkpoint) -> None:
    """Bring a run that was just set up to where the checkpoint's phase began, with the checkpoint's weights."""
    done = checkpoint.record["done"]
    run.phases = [PhaseResult.from_dict(each) for each in done["phases"]]
    run.log = done["log"]
    predictions = {
        name: {split: np.asarray(values, np.int64) for split, values in splits.items()}
        for name, splits in done["baselines"]["predictions"].items()
    }
    run.baselines = Baselines(predictions, done["baselines"]["seconds"])
    run.changed = frozenset(checkpoint.tensors["model"])
    checkpoint.restore_weights(run.model)


def _plain(baselines: Baselines) -> dict[str, Any]:
    return {
        "predictions": {
            name: {split: values.tolist() for split, values in splits.items()}
            for name, splits in baselines.predictions.items()
        },
        "seconds": baselines.seconds,
    }
