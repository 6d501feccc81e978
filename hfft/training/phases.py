"""Train the phases of a plan, one after the other, and prove of each that what is frozen stayed frozen."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers.trainer
from accelerate.utils import TorchDynamoPlugin
from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SaveStrategy

from hfft.arguments import FinetuneArguments
from hfft.cache.prepare import (
    Fills,
    ImagesAndPixels,
    Prepared,
    choose_memory_format,
    describe,
    precision_of,
    prefix_of,
    prepare_phases,
    probe_inputs,
)
from hfft.data.preprocessing import Pixels, collate
from hfft.errors import ArgumentError, PreemptedError
from hfft.models.tensors import digest
from hfft.output_folder import claim
from hfft.planning.freezing import freeze, frozen_tensors
from hfft.planning.plan import Phase, count_fillable_together
from hfft.split.compiled import compilable, compiled
from hfft.split.cut import Cut, cut_phase
from hfft.split.halves import idle_parameters
from hfft.training.augmentation.boundary import BoundaryAugmentation, Wanted, check_boundary
from hfft.training.augmentation.rows import AugmentedRows
from hfft.training.callbacks import (
    RESUME_HINT,
    Average,
    FirstStep,
    KeepBest,
    PhaseCallback,
    Preemption,
    QuietProgress,
    StopAndSave,
    Views,
)
from hfft.training.checkpointing import PhaseCheckpoints, RestoreSums
from hfft.training.learning_rates import LOWEST, find_learning_rate, gradient_ratios
from hfft.training.objective import Objective
from hfft.training.plan_view import PhaseView, plan_tree, view_phase
from hfft.training.progress import CacheUse, PhaseResult, Progress
from hfft.training.recipe.head import begin_with_probe, from_first_process, starts_known
from hfft.training.resume import Checkpoint, find_checkpoint, identity_of, restore_progress, resume_point
from hfft.training.setup import Setup
from hfft.training.trainer import FreezeTrainer, KeepAnswers

FLIPPED = 8
"""Training images that flips of activations are measured on."""
_NO_FALL = " That is the low end of the range: the loss falls at no rate, so leave out --find_lr, or look at the plot."
FEW_STEPS = 10
"""A phase of fewer optimizer steps is pointed out before it is trained."""


@dataclass(frozen=True)
class ReadyPhase:
    """A phase that can be trained: its data and what it looks like."""

    phase: Phase
    prepared: Prepared
    view: PhaseView


@dataclass(frozen=True)
class Interruptible:
    """What a phase must know to be stopped and gone on with.

    Args:
        resumed: the checkpoint that the phase goes on from, or None.
        preemption: ends the training in good order when SIGTERM comes.
    """

    resumed: Checkpoint | None
    preemption: Preemption


def train_phases(
    setup: Setup,
    progress: Progress,
    say: Callable[[str], None],
    preemption: Preemption | None = None,
    prepared: Sequence[ReadyPhase] = (),
) -> FreezeTrainer:
    """Train every phase, or those that an interrupted run has left; the last one's trainer judges the result.

    Args:
        setup: its model is trained in place.
        progress: new; it is filled in here, or from the checkpoint that is gone on with.
        say: prints a line for the user.
        preemption: ends the training in good order when SIGTERM comes.
        prepared: first phases that are ready already; the head then keeps what it holds.

    Raises:
        ArgumentError: the checkpoint to resume from belongs to another run.
        PreemptedError: SIGTERM came, and where the checkpoint lies.
        HfftError: images, cache or output folder are not usable.
    """
    training, phases = setup.settings.training, setup.plan.phases
    to_device(setup)
    if training.n_gpu > 1:
        say(
            f"Of {training.n_gpu} GPUs this process uses one: torchrun --nproc_per_node {training.n_gpu} "
            "scripts/finetune.py uses all of them (docs/distributed.md)."
        )
    progress.baselines.task = setup.sets.task
    progress.identity = identity_of(setup)  # now: the Trainer writes into the model's configuration
    resumed = find_checkpoint(training.resume_from_checkpoint, setup.folder)
    if resumed is not None:
        resumed.check(progress.identity)
        restore_progress(progress, setup.model, resumed)
        say(f"Resuming from {resumed.folder}.")
    elif training.resume_from_checkpoint:
        say(f"There is no checkpoint in {setup.folder} yet: starting from the beginning.")
    ready = list(prepared)
    for index in range(resumed.phase if resumed is not None else 0, len(phases)):
        if not ready:
            ready = make_ready(setup, phases[index : index + count_fillable_together(phases[index:])], say)
            if resumed is None and index == 0:
                begin_with_probe(setup, progress, ready[0].prepared, say)
        here = resumed if resumed is not None and resumed.phase == index else None
        around = Interruptible(here, preemption or Preemption())
        trainer = _train_phase(setup, progress, ready.pop(0), around, say)
    trainer.state = progress.continuous(trainer.state, sum(phase.epochs for phase in phases))
    setup.trackers.place(len(phases), 0, 0.0)  # that state counts over all phases itself
    return trainer


def fill_caches(setup: Setup, share: tuple[int, int], say: Callable[[str], None]) -> None:
    """Fill one part of the activation caches that a run reads, without training.

    Phases whose frozen prefix is trained by an earlier one are left out: only that training makes their rows.

    Args:
        setup: its model holds the pretrained weights.
        share: (number, count), counted from 0.
        say: prints a line for the user.

    Raises:
        ArgumentError: nothing can be cached.
        HfftError: images or cache are not usable.
    """
    phases = setup.plan.phases
    together = count_fillable_together(phases)
    to_device(setup)
    ready = make_ready(setup, phases[:together], say, share)
    if reasons := [each.prepared.uncached_reason for each in ready if each.prepared.uncached_reason]:
        raise ArgumentError(f"nothing to fill: {reasons[0]}")
    if left := [phase.name for phase in phases[together:]]:
        say(f"Left to the training, whose weights they begin with: {', '.join(left)}.")


def make_ready(
    setup: Setup, phases: Sequence[Phase], say: Callable[[str], None], share: tuple[int, int] | None = None
) -> list[ReadyPhase]:
    """Cut the model for each phase and fill their caches.

    Args:
        setup: its model holds the weights that the first of the phases begins with.
        phases: in order; none of them may train what a later one freezes.
        say: prints a line for the user.
        share: (number, count): compute only this of so many parts of the caches; the phases cannot be trained then.
    """
    settings, training = setup.settings, setup.settings.training
    probe = probe_inputs(
        _splits(setup, phases[0])["train"], training.device, choose_memory_format(settings.cache.memory_format)
    )
    cuts, views = [], []
    for phase in phases:
        freeze(setup.model, phase)
        shortcut, precision = settings.cache.class_token_shortcut, precision_of(training)
        cut = cut_phase(setup.model, setup.plan.anatomy, phase, probe, shortcut, precision)
        cuts.append((phase, cut, _splits(setup, phase)))
        views.append(view_phase(setup.model, setup.plan, phase, cut))
    say(plan_tree(setup.base.name, views, training.learning_rate))
    _check_augmentation(setup, [(phase, cut) for phase, cut, _ in cuts], say)
    prepared = prepare_phases(
        setup.model,
        setup.plan.anatomy,
        cuts,
        settings.cache,
        training,
        Fills(share, partial(_tell_of_fill, setup), setup.behind),
    )
    for each in prepared:
        say(describe(each))
        _check_compiled(setup, each)
    return [ReadyPhase(*each) for each in zip(phases, prepared, views, strict=True)]


def _check_augmentation(setup: Setup, cuts: Sequence[tuple[Phase, Cut]], say: Callable[[str], None]) -> None:
    """Make sure that every phase can be augmented as its flags ask for."""
    training, cache = setup.settings.training, setup.settings.cache
    wanted = Wanted.of(training)
    if not wanted:
        return
    images = ImagesAndPixels(setup.sets.train, setup.plain_pixels)
    inputs = probe_inputs(images, training.device, choose_memory_format(cache.memory_format), FLIPPED)
    for phase, cut in cuts:
        freeze(setup.model, phase)
        prefix = prefix_of(cut, setup.plan.anatomy, cache, training)
        if line := check_boundary(wanted, prefix or cut.uncached_reason, inputs, phase.name, setup.plan.anatomy.tokens):
            say(line)


def _check_compiled(setup: Setup, prepared: Prepared) -> None:
    uncached = prepared.prefix is not None and prepared.suffix.split is None
    if uncached and setup.settings.training.torch_compile and Wanted.of(setup.settings.training):
        raise ArgumentError(
            f"--torch_compile compiles whole forwards where activations are not cached ({prepared.uncached_reason}), "
            "and augmentation at the boundary needs their two halves; leave one of both out"
        )


def _tell_of_fill(setup: Setup, done: int, total: int) -> None:
    for callback in setup.callbacks:
        if isinstance(callback, PhaseCallback):
            callback.on_fill(done, total)


def to_device(setup: Setup) -> None:
    """Move the model to where it trains, in the memory format and with the products that it trains with."""
    _choose_tf32(setup.settings.training.tf32)
    memory_format = choose_memory_format(setup.settings.cache.memory_format)
    nn.Module.to(nn.Module.to(setup.model, setup.settings.training.device), memory_format=memory_format)


def _choose_tf32(wanted: bool | None) -> None:
    """Multiply in TF32 or exactly where a flag says which: reading the flags of a later run has set it meanwhile."""
    if wanted is None:
        return
    backends: Any = torch.backends
    if hasattr(backends, "fp32_precision"):  # since PyTorch 2.9
        for each in (backends, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
            each.fp32_precision = "tf32" if wanted else "ieee"
    else:
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = wanted


def _train_phase(
    setup: Setup, progress: Progress, ready: ReadyPhase, around: Interruptible, say: Callable[[str], None]
) -> FreezeTrainer:
    """Train one phase with an evaluation after each epoch."""
    phase, names, resumed = ready.phase, changing(setup.model, ready.phase), around.resumed
    progress.changed |= names
    freeze(setup.model, phase)
    before = digest(frozen_tensors(setup.model, phase))
    if (steps := _steps(setup, ready)) < FEW_STEPS:
        say(_few_steps(phase.name, steps, setup.settings.training.per_device_train_batch_size))
    trainer = make_trainer(setup, progress, ready, _learning_rate(setup, progress, ready, resumed, say))
    if not progress.phases and resumed is None and starts_known(setup, progress):
        trainer.args.eval_on_start = trainer.args.eval_strategy != "no"  # epoch 0, which may be the best
    _scale_by_gradients(trainer, resumed)
    _watch(trainer, setup, progress, names)
    setup.trackers.place(len(progress.phases) + 1, progress.steps, progress.epochs)
    trainer.add_callback(setup.trackers)
    if trainer.args.dataloader_drop_last and not setup.settings.training.dataloader_drop_last:
        say(_LONE_IMAGE)
    checkpoints = PhaseCheckpoints(setup.folder, resume_point(progress, trainer), resumed)
    with _compiled_suffix(setup, ready, say):
        metrics = _train(trainer, checkpoints, around.preemption)
    after = digest(frozen_tensors(setup.model, phase))
    if before != after:
        raise RuntimeError("a frozen tensor changed during training; this is a bug in hfft, please report it")
    result = PhaseResult(
        ready.view,
        CacheUse.of(ready.prepared),
        trainable_tensors=len(phase.trainable),
        frozen_tensors=sum(1 for _ in frozen_tensors(setup.model, phase)),
        frozen_before=before,
        frozen_after=after,
        train_metrics=metrics,
        epochs=float(trainer.state.epoch or 0.0),
        steps=trainer.state.global_step,
        best_epoch=progress.best.epoch if setup.keeps_best else 0.0,
        learning_rate=trainer.args.learning_rate,
    )
    progress.add(result, trainer.state.log_history)
    return trainer


def untrained(setup: Setup, ready: ReadyPhase) -> PhaseResult:
    """Return what a phase did that made no step, of weights that came otherwise."""
    frozen = list(frozen_tensors(setup.model, ready.phase))
    same = digest(iter(frozen))
    return PhaseResult(
        ready.view,
        CacheUse.of(ready.prepared),
        trainable_tensors=len(ready.phase.trainable),
        frozen_tensors=len(frozen),
        frozen_before=same,
        frozen_after=same,
        train_metrics={"train_runtime": 0.0, "total_flos": 0.0},
        epochs=0.0,
        steps=0,
        best_epoch=0.0,
        learning_rate=setup.settings.training.learning_rate,
    )


def _compiled_suffix(setup: Setup, ready: ReadyPhase, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """Compile what trains on activations, where --torch_compile asks for it; accelerate compiles whole forwards."""
    training, suffix = setup.settings.training, ready.prepared.suffix
    if not training.torch_compile or suffix.split is None:
        return nullcontext()
    names = compilable(setup.model, suffix)
    if names:
        say(f"Compiled with {training.torch_compile_backend}: {', '.join(names)}.")
    else:
        say("Not compiled: " + ("--class_token_shortcut is faster." if suffix.class_token else "no part trains whole."))
    return compiled(setup.model, names, training.torch_compile_backend, training.torch_compile_mode)


def _steps(setup: Setup, ready: ReadyPhase) -> int:
    """Return how many optimizer steps a phase makes at most."""
    training, images = setup.settings.training, len(setup.sets.train)
    if training.max_steps > 0:
        return int(training.max_steps)
    batches = images / (training.per_device_train_batch_size * training.world_size)
    whole = math.floor(batches) if training.dataloader_drop_last else math.ceil(batches)
    per_epoch: int = max(1, math.ceil(whole / int(training.gradient_accumulation_steps)))
    return math.ceil(ready.phase.epochs * per_epoch)


def _few_steps(name: str, steps: int, batch: int) -> str:
    count = "a single optimizer step" if steps == 1 else f"{steps} optimizer steps"
    advice = f"a --per_device_train_batch_size below {batch} or more epochs give" if batch > 1 else "more epochs give"
    return f"Phase {name} has only {count}, which may train little: {advice} it more."


def _train(trainer: FreezeTrainer, checkpoints: PhaseCheckpoints, preemption: Preemption) -> dict[str, float]:
    """Train from the phase's beginning or from a checkpoint; return the Trainer's metrics."""
    trainer.checkpoints, resumed = checkpoints, checkpoints.resumed
    if resumed is not None:
        resumed.restore(checkpoints.point.best, trainer.average, trainer.args.device)
        trainer.add_callback(RestoreSums(checkpoints, trainer))
    stop = StopAndSave(preemption)
    trainer.add_callback(stop)
    preemption.training = True
    try:
        outcome = trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed is not None else None)
    finally:
        preemption.training = False
    if stop.saved:
        raise PreemptedError(f"stopped by SIGTERM; {checkpoints.newest} holds its state: {RESUME_HINT}", True)
    trainer.release()
    return outcome.metrics


def _watch(trainer: FreezeTrainer, setup: Setup, progress: Progress, names: frozenset[str]) -> None:
    """Keep the best and the averaged weights, as the arguments ask for."""
    args: Any = trainer.args
    trainer.add_callback(FirstStep(lambda: setattr(progress, "stepped", True)))
    if args.ema_decay is not None:
        trainer.average = Average(names, args.ema_decay)
        trainer.add_callback(trainer.average)  # the best weights, which are put back after it, win
    if args.eval_strategy != "no":
        if trainer.objective.task.chooses:
            trainer.add_callback(KeepAnswers(trainer, progress.answers, progress.epochs))
        trainer.add_callback(
            KeepBest(
                progress.best,
                names,
                progress.epochs,
                args.early_stopping_patience,
                setup.keeps_best,
                trainer.objective.task.metric,
                copies=args.keep != "last",
            )
        )


def _learning_rate(
    setup: Setup, progress: Progress, ready: ReadyPhase, resumed: Checkpoint | None, say: Callable[[str], None]
) -> float:
    """Return the phase's learning rate: as given, as found by a range test, or as found before an interruption."""
    given = setup.settings.training.learning_rate
    if resumed is not None:
        return float(resumed.record["learning_rate"])
    if not setup.settings.training.find_lr:
        return given
    found = find_learning_rate(make_trainer(setup, progress, ready, given), changing(setup.model, ready.phase))
    if setup.settings.training.process_index == 0:
        from hfft.report.plots import rates_figure  # it draws; other runs do not wait for its imports

        target = setup.folder / setup.drawn[len(progress.phases)]
        claim(setup.folder, [target.name])
        rates_figure(found.tried, found.losses, found.learning_rate, target)
        doubt = "" if found.learning_rate > 10 * LOWEST else _NO_FALL
        say(f"Learning rate of phase {ready.phase.name}: {found.learning_rate:.2g}, from {target}.{doubt}")
    return found.learning_rate


def _scale_by_gradients(trainer: FreezeTrainer, resumed: Checkpoint | None) -> None:
    """Multiply the factors of a phase that asks for it by measured ratios."""
    if resumed is not None:
        trainer.phase = replace(trainer.phase, lr_scales=resumed.record["lr_scales"])
    elif trainer.phase.gradient_ratio:
        ratios = from_first_process(trainer.args, lambda: gradient_ratios(trainer))
        scales = {name: scale * ratios[name] for name, scale in trainer.phase.lr_scales.items()}
        trainer.phase = replace(trainer.phase, lr_scales=scales)
        set_seed(trainer.args.seed)


def _splits(setup: Setup, phase: Phase) -> dict[str, ImagesAndPixels]:
    """Return what a phase reads: the test images only where the probe or the last evaluation reads them."""
    data, seed = setup.settings.data, setup.settings.training.seed
    views = data.views if data.augment != "none" else 1
    views = min(views, math.ceil(setup.settings.training.num_train_epochs))
    augmented = Pixels(setup.processor, data.augment, seed, setup.settings.cache.exact)
    splits = {
        "train": ImagesAndPixels(setup.sets.train, augmented, views),
        "validation": ImagesAndPixels(setup.sets.validation, setup.plain_pixels),
    }
    probed = setup.settings.training.baselines != "none" and phase is setup.plan.phases[0]
    if setup.sets.test is not None and (probed or phase is setup.plan.phases[-1]):
        splits["test"] = ImagesAndPixels(setup.sets.test, setup.plain_pixels)
    return splits


def make_trainer(setup: Setup, progress: Progress, ready: ReadyPhase, learning_rate: float) -> FreezeTrainer:
    """Make the trainer of a phase that can be trained: its arguments, data, objective and callbacks."""
    prepared, training = ready.prepared, _arguments_of(setup, progress, ready, learning_rate)
    set_seed(training.seed)
    datasets = prepared.datasets
    trainer = FreezeTrainer(
        setup.model, training, ready.phase, prepared.suffix, datasets["train"], datasets["validation"]
    )
    if training.torch_compile:  # the state that accelerate keeps for the process would hold the first phase's choice
        backend = "no" if prepared.suffix.split is not None else training.torch_compile_backend
        trainer.accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend=backend, mode=training.torch_compile_mode)
    trainer.test_dataset = datasets.get("test")
    trainer.objective = _objective(setup)
    _augment(setup, progress, prepared, trainer)
    shown: Any = trainer.augmented or datasets["train"]
    trainer.add_callback(Views(shown.show_view, progress.epochs))
    for callback in setup.callbacks:
        if isinstance(callback, PhaseCallback):
            callback.on_phase_begin(ready.phase.name, progress.epochs)
        trainer.add_callback(callback)
    trainer.remove_callback(PrinterCallback)
    if not training.disable_tqdm:
        trainer.remove_callback(transformers.trainer.DEFAULT_PROGRESS_CALLBACK)  # tables of its own, in a notebook
        trainer.add_callback(QuietProgress())
    return trainer


def _augment(setup: Setup, progress: Progress, prepared: Prepared, trainer: FreezeTrainer) -> None:
    """Have training batches augmented at the boundary, where flags ask for it."""
    wanted, training = Wanted.of(setup.settings.training), setup.settings.training
    if not wanted:
        return
    contents = setup.sets.train.contents()
    trainer.augmented = AugmentedRows(prepared.datasets["train"], contents, training.seed, bool(wanted.mixing))
    trainer.augmentation = BoundaryAugmentation(
        wanted,
        setup.sets.task,
        len(setup.sets.labels),
        setup.plan.anatomy.tokens,
        training.seed,
        progress.steps,
        prepared.prefix if prepared.suffix.split is None else None,
    )


def _arguments_of(setup: Setup, progress: Progress, ready: ReadyPhase, learning_rate: float) -> FinetuneArguments:
    """Return a phase's own copy of the training arguments."""
    training = copy.copy(setup.settings.training)
    training.num_train_epochs = ready.phase.epochs
    training.learning_rate = learning_rate
    training.label_names = ["labels"]
    if training.save_strategy == SaveStrategy.BEST and training.metric_for_best_model is None:  # which the Trainer asks
        training.metric_for_best_model, training.greater_is_better = setup.sets.task.metric, True
    training.data_seed = training.seed if training.data_seed is None else training.data_seed
    training.report_to = []  # setup.trackers are told of all phases
    before = progress.steps if training.eval_strategy == "steps" else progress.epochs
    training.eval_delay = max(0, training.eval_delay - before)
    training.dataloader_drop_last |= _ends_with_one(setup, ready.phase)
    training.dataloader_pin_memory = training.dataloader_pin_memory and lies_on_cpu(ready.prepared.datasets["train"])
    if training.dataloader_pin_memory and training.device.type == "cuda":
        assert isinstance(training.accelerator_config, AcceleratorConfig)  # as the arguments leave it
        # A batch is on its way to the GPU while the one before trains.
        training.accelerator_config = replace(training.accelerator_config, non_blocking=True)
    if training.world_size > 1:
        batch = collate([ready.prepared.datasets["train"][row] for row in range(2)])
        moved = {name: tensor.to(training.device) for name, tensor in batch.items()}
        idle = idle_parameters(setup.model, ready.prepared.suffix, moved, precision_of(training))
        training.ddp_find_unused_parameters = bool(idle)
    return training


def lies_on_cpu(rows: Any) -> bool:
    """Whether a dataset's rows lie in the CPU's memory, which alone can be pinned."""
    return all(tensor.device.type == "cpu" for tensor in collate([rows[0]]).values())


_LONE_IMAGE = (
    "The last batch of each epoch would hold a single image, from which batch norms cannot learn: it is left out."
)


def _ends_with_one(setup: Setup, phase: Phase) -> bool:
    """Whether the last batch of an epoch holds one image, and batch norms learn from it."""
    training, images = setup.settings.training, len(setup.sets.train)
    batch = training.per_device_train_batch_size
    if training.world_size > 1 or images <= batch or batch == 1 or images % batch != 1:
        return False
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and name not in phase.eval_modules
        for name, module in setup.model.named_modules()
    )


def _objective(setup: Setup) -> Objective:
    training, classes, task = setup.settings.training, len(setup.sets.labels), setup.sets.task
    balanced = training.class_weights == "balanced"
    weights = task.class_weights(setup.sets.train.labels, classes) if balanced else None
    return Objective(classes, training.label_smoothing_factor, weights, task)


def changing(model: PreTrainedModel, phase: Phase) -> frozenset[str]:
    """Names of all tensors of the state that this phase may change."""
    frozen = {name for name, _ in frozen_tensors(model, phase)}
    return frozenset(name for name in model.state_dict() if name not in frozen)
