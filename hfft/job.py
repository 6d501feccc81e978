"""The main job: plan, fill the cache, train the phases, write the results."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback, TrainerState, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.baselines import Baselines, full_baseline, probe_baselines
from hfft.check_output import check_before_training
from hfft.data import ImageSets, load_image_sets
from hfft.delta import Pretrained
from hfft.errors import OutputError
from hfft.freezing import digest, freeze, frozen_tensors, unfreeze
from hfft.hub import open_repo, push, target_of
from hfft.keywords import parse_keywords
from hfft.model import Base, load_model
from hfft.pixels import PixelDataset, Pixels, collate
from hfft.planning import PhaseView, plan_tree, resolve_anatomy, view_phase
from hfft.policies import Phase, Plan, make_plan
from hfft.prepare import (
    ImagesAndPixels,
    Prepared,
    choose_memory_format,
    cut_phase,
    describe,
    precision_of,
    prepare_phase,
    probe_inputs,
)
from hfft.skipping import without_bad_images
from hfft.trainer import FreezeTrainer, KeepBest, Views, idle_parameters
from hfft.unforeseen import weights_kept


@dataclass
class Settings:
    """Every option of a run, grouped as the command line groups them."""

    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    policy: PolicyArguments = field(default_factory=PolicyArguments)
    cache: CacheArguments = field(default_factory=CacheArguments)
    training: FinetuneArguments = field(default_factory=FinetuneArguments)


@dataclass
class PhaseResult:
    """What one phase of training did."""

    view: PhaseView
    prepared: Prepared
    trainable_tensors: int
    frozen_tensors: int
    frozen_before: str
    frozen_after: str
    train_metrics: dict[str, float]
    best_epoch: float


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
        phases: what each phase did.
        state: the Trainer's own record.
        predictions: by split (validation, test), the Trainer's predictions.
        seconds: of wall time over the whole run, without full fine-tuning as a baseline.
        callbacks: that the caller adds to the Trainer's own.
        baselines: what the result is compared with.
    """

    settings: Settings
    sets: ImageSets
    model: PreTrainedModel
    processor: BaseImageProcessor
    base: Base
    pretrained: Pretrained
    plan: Plan
    phases: list[PhaseResult] = field(default_factory=list)
    state: TrainerState | None = None
    predictions: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    callbacks: tuple[TrainerCallback, ...] = ()
    baselines: Baselines = field(default_factory=Baselines)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.settings.training.output_dir or "")


def finetune(
    settings: Settings,
    say: Callable[[str], None] = print,
    test: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> Run:
    """Fine-tune a pretrained image classifier with most of it frozen, and write everything to ``output_dir``.

    Args:
        settings: every option; the defaults fine-tune the embedded model on the embedded images.
        say: prints a line for the user; called in the first process alone.
        test: look at the test images at the end, where there are any.
        callbacks: more of the Trainer's callbacks, for each phase.

    Raises:
        HfftError: data, model, plan or folders are not usable, and how to mend it.
    """
    from hfft.results import write_results  # it draws and writes; training does not wait for its imports

    began = time.perf_counter()
    training = settings.training
    main = training.process_index == 0
    say = say if main else _silent
    check_output_dir(training)
    hub = open_repo(target_of(training, settings.model.token)) if training.push_to_hub and main else None
    training.push_to_hub = False  # the Trainer would push on its own, its checkpoints too
    run = set_up(settings)
    if not test:
        run.sets = replace(run.sets, test=None)
    run.callbacks = tuple(callbacks)
    say(_what_is_new(run))
    if main and (findings := check_before_training(run.sets)):
        say(findings)
    for phase in run.plan.phases:
        trainer = train_phase(run, phase, say)
    with weights_kept(run):
        judge(run, trainer)
    unfreeze(run.model)
    run.seconds = time.perf_counter() - began
    if training.baselines == "full":
        say("Baseline: full fine-tuning with the same options")
        run.baselines.add_full(*full_baseline(run))
    if main:
        say(write_results(run))
    if hub is not None:
        say(f"Pushed to {push(training.output_dir or '', hub)}.")
    return run


def check_output_dir(training: FinetuneArguments) -> None:
    """Make sure that the output folder can take a run.

    Raises:
        OutputError: it holds a run already, it is not a folder, or it cannot be written.
    """
    folder = Path(training.output_dir or "")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"--output_dir {folder} is a file; choose a folder")
    taken = (folder / "hfft.json").exists() or any(folder.glob("checkpoint-*"))
    if taken and not training.overwrite_output_dir and not training.resume_from_checkpoint:
        raise OutputError(
            f"{folder} already holds a run; choose another --output_dir, go on with --resume_from_checkpoint true, "
            "or replace it with --overwrite_output_dir"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:  # each process has its own
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        raise OutputError(f"cannot write to --output_dir {folder}: {error.strerror}") from error


def set_up(settings: Settings) -> Run:
    """Load images and model, find the anatomy, and make the plan."""
    training = settings.training
    set_seed(training.seed)
    sets = load_image_sets(settings.data, training.seed)
    if settings.data.on_bad_image == "skip":
        sets = without_bad_images(sets)
    set_seed(training.seed)
    model, processor, base = load_model(settings.model, sets.labels)
    anatomy = resolve_anatomy(model, settings.model)
    policy = settings.policy
    plan = make_plan(model, anatomy, policy.policy, training.num_train_epochs, policy.head_lr_scale, policy.layer_decay)
    given = {n: t for n, t in model.state_dict().items() if n not in base.fresh and anatomy.part_of(n) != "head"}
    return Run(settings, sets, model, processor, base, Pretrained.of(given), plan)


def train_phase(run: Run, phase: Phase, say: Callable[[str], None]) -> FreezeTrainer:
    """Freeze, fill the cache, train with an evaluation after each epoch, and prove that frozen stayed frozen."""
    settings, training = run.settings, run.settings.training
    anatomy, memory_format = run.plan.anatomy, choose_memory_format(settings.cache.memory_format)
    nn.Module.to(nn.Module.to(run.model, training.device), memory_format=memory_format)
    freeze(run.model, phase)
    splits = _splits(run)
    probe = probe_inputs(splits["train"], training.device, memory_format)
    cut = cut_phase(run.model, anatomy, phase, probe, settings.cache.class_token_shortcut, precision_of(training))
    view = view_phase(run.model, run.plan, phase, cut)
    say(plan_tree(run.base.name, view))
    before = digest(frozen_tensors(run.model, phase))
    prepared = prepare_phase(run.model, (anatomy, phase), cut, splits, settings.cache, training)
    say(describe(prepared))
    if phase is run.plan.phases[0] and training.baselines != "none" and training.process_index == 0:
        run.baselines = probe_baselines(run, prepared)
    trainer = _make_trainer(run, phase, prepared)
    best = KeepBest(_changing(run.model, phase))
    if training.keep == "best" and training.eval_strategy != "no":
        trainer.add_callback(best)
    outcome = trainer.train(resume_from_checkpoint=_checkpoint(training))
    after = digest(frozen_tensors(run.model, phase))
    if before != after:
        raise RuntimeError("a frozen tensor changed during training; this is a bug in hfft, please report it")
    counts = len(phase.trainable), sum(1 for _ in frozen_tensors(run.model, phase))
    run.phases.append(PhaseResult(view, prepared, *counts, before, after, outcome.metrics, best.epoch))
    run.state = trainer.state
    return trainer


def _what_is_new(run: Run) -> str:
    """Say which parameters the checkpoint did not bring; a new head is expected, anything else is a warning."""
    beyond = [name for name in run.base.fresh if run.plan.anatomy.part_of(name) != "head"]
    warning = f"\nWarning: {run.base.name} lacks {', '.join(beyond)}; they start from random numbers." if beyond else ""
    counts = f"{len(run.sets.train)} training and {len(run.sets.validation)} validation images"
    names = run.sets.skipped
    skipped = f"\nSkipped {len(names)} images that cannot be read: {', '.join(names[:3])}" if names else ""
    skipped += ", ...; hfft.json lists all" if len(names) > 3 else ""
    return f"{run.sets.name}: {counts} of {len(run.sets.labels)} classes.{warning}{skipped}"


def judge(run: Run, trainer: FreezeTrainer) -> None:
    """Evaluate the weights that are handed back; the test images are seen here for the first time."""
    trainer.save_metrics("train", run.phases[-1].train_metrics)
    metrics = trainer.evaluate()
    run.predictions["validation"] = trainer.predictions
    trainer.save_metrics("eval", metrics)
    if run.sets.test is not None:
        outcome = trainer.predict(PixelDataset(run.sets.test, Pixels(run.processor)), metric_key_prefix="test")
        run.predictions["test"] = trainer.predictions
        trainer.save_metrics("test", outcome.metrics)
    trainer.save_state()


def _splits(run: Run) -> dict[str, ImagesAndPixels]:
    data, seed = run.settings.data, run.settings.training.seed
    views = data.views if data.augment != "none" else 1
    views = min(views, math.ceil(run.settings.training.num_train_epochs))
    augmented = Pixels(run.processor, data.augment, seed)
    return {
        "train": ImagesAndPixels(run.sets.train, augmented, views),
        "validation": ImagesAndPixels(run.sets.validation, Pixels(run.processor)),
    }


def _make_trainer(run: Run, phase: Phase, prepared: Prepared) -> FreezeTrainer:
    training = run.settings.training
    training.num_train_epochs = phase.epochs
    training.label_names = ["labels"]
    training.data_seed = training.seed if training.data_seed is None else training.data_seed
    if training.world_size > 1:
        batch = collate([prepared.datasets["train"][row] for row in range(2)])
        moved = {name: tensor.to(training.device) for name, tensor in batch.items()}
        training.ddp_find_unused_parameters = bool(idle_parameters(run.model, prepared.suffix, moved))
    set_seed(training.seed)
    trainer = FreezeTrainer(
        run.model, training, phase, prepared.suffix, prepared.datasets["train"], prepared.datasets["validation"]
    )
    trainer.add_callback(Views(prepared.datasets["train"].set_epoch))  # type: ignore[attr-defined]
    for callback in run.callbacks:
        trainer.add_callback(callback)
    trainer.remove_callback(PrinterCallback)
    if not training.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(QuietProgress())
    return trainer


class QuietProgress(ProgressCallback):
    """The Trainer's progress bars without its log lines; the epoch table says the same at the end."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print nothing."""


def _changing(model: PreTrainedModel, phase: Phase) -> frozenset[str]:
    """Names of all tensors of the state that this phase may change."""
    frozen = {name for name, _ in frozen_tensors(model, phase)}
    return frozenset(name for name in model.state_dict() if name not in frozen)


def _checkpoint(training: FinetuneArguments) -> str | bool | None:
    wish = training.resume_from_checkpoint
    if isinstance(wish, str) and wish.lower() in ("true", "false"):
        return wish.lower() == "true"
    return wish


def _silent(line: str) -> None:
    """Say nothing: only the first process talks."""


def finetune_with(*, say: Callable[[str], None] = print, **options: Any) -> Run:
    """Fine-tune a pretrained image classifier with most of it frozen; this is ``hfft.finetune``.

    Args:
        say: prints a line for the user.
        options: the flags of ``hfft finetune`` under their own names, for example ``train_dir``, ``policy``,
            ``output_dir`` or any of transformers' TrainingArguments. Without any, the embedded model is
            fine-tuned on the embedded images. None stands for an option's default.

    Returns:
        The finished run: ``run.model``, ``run.processor``, ``run.plan``, and by split (``validation``,
        ``test``) ``run.predictions`` with logits of shape (images, labels) and metrics. Everything is in
        ``output_dir`` as well.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: data, model, plan or folders are not usable, and how to mend it.

    Example:
        >>> run = hfft.finetune(train_dir="photos/train", output_dir="outputs/photos")  # doctest: +SKIP
    """
    return finetune(Settings(*parse_keywords(options)), say)
