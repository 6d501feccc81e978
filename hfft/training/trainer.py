"""The Trainer wrapper: one Phase of one Plan, on cached activations or on pixels."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import DistributedType
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hfft.arguments import FinetuneArguments
from hfft.cache.read_ahead import read_ahead
from hfft.data.preprocessing import collate, received
from hfft.errors import ArgumentError, one_line
from hfft.models.forward import logits_of
from hfft.planning.freezing import freeze
from hfft.planning.plan import Phase
from hfft.split.halves import Suffix
from hfft.surroundings import same_random_numbers
from hfft.tasks.registry import task_of
from hfft.training.augmentation.boundary import BoundaryAugmentation
from hfft.training.callbacks import Average, EndIfDiverged
from hfft.training.gradient_format import channels_last_gradients
from hfft.training.objective import Objective
from hfft.trust.epoch_answers import EpochAnswers

_WHOLE_MODELS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where each process holds all parameters."""


class Checkpoints(Protocol):
    """Saves and restores the state of a FreezeTrainer in the middle of its phase; see `hfft.training.checkpointing`."""

    def save(self, trainer: FreezeTrainer) -> None:
        """Write a checkpoint of this moment."""

    def restore_optimizer(self, trainer: FreezeTrainer) -> None:
        """Give the optimizer and the schedule the state of the checkpoint that is resumed from."""

    def restore_random_state(self, trainer: FreezeTrainer) -> None:
        """Give every source of random numbers the state of the checkpoint that is resumed from."""


class FreezeTrainer(Trainer):
    """transformers' Trainer under a static freeze.

    Everything of the Trainer works as ever: its arguments, callbacks, loggers and ``accelerate launch``.
    Overridden are named hooks alone: the optimizer (trainable parameters with their learning rates), the
    loss (an `Objective` on the logits, for every architecture alike), the evaluation's loss (over all
    examples, each once), the memory format of gradients, what is in a checkpoint, and whatever else would walk
    through the frozen part of the model at every step.

    Args:
        model: the model; it is frozen here as `phase` says, until `hfft.planning.freezing.unfreeze`.
        args: training arguments; ``num_train_epochs`` is taken from the phase.
        phase: what is trained.
        suffix: how a batch reaches the trainable part; by default pixels run through all of the model.
        train_dataset: items or batches of cached activations or pixels, with labels.
        eval_dataset: the same for validation.

    Attributes:
        classifier: the bare model, never its DDP wrap.
        objective: what training minimises; the plain loss of the model's problem type if not set otherwise.
        augmentation: of training batches at the boundary, or None.
        augmented: what training batches come from in place of `train_dataset`, where they are augmented there.
        average: weights to evaluate with in place of the current ones, or None.
        checkpoints: how a checkpoint is written and read; None for the Trainer's own way.
        divergence: ends the training when a loss is not finite.
        trained: the parameters that a training in progress changes.
        test_dataset: the same as `eval_dataset` for the test images, or None.
        predictions: of the last evaluation.

    Example:
        ``run`` is what `hfft.finetune` gave back:

        >>> items = [{"pixel_values": torch.zeros(3, 224, 224), "labels": torch.tensor(0)}] * 4
        >>> training, phase = run.settings.training, run.plan.phases[0]
        >>> trainer = hfft.FreezeTrainer(run.model, training, phase, train_dataset=items, eval_dataset=items)
        >>> sum(p.requires_grad for p in trainer.classifier.parameters()) == len(phase.trainable)
        True
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: FinetuneArguments,
        phase: Phase,
        suffix: Suffix | None = None,
        train_dataset: Dataset[Any] | None = None,
        eval_dataset: Dataset[Any] | None = None,
    ) -> None:
        self.classifier = model
        self.phase = phase
        self.suffix = suffix or Suffix()
        task = task_of(model.config)
        self.objective: Objective = Objective(int(model.config.num_labels or 0), args.label_smoothing_factor, task=task)
        self.augmentation: BoundaryAugmentation | None = None
        self.augmented: Dataset[Any] | None = None
        self.average: Average | None = None
        self.checkpoints: Checkpoints | None = None
        self.divergence = EndIfDiverged(phase.name)
        self.trained: list[nn.Parameter] = []
        self.test_dataset: Dataset[Any] | None = None
        self.predictions: EvalLoopOutput | None = None
        freeze(model, phase)
        args._n_gpu = min(args.n_gpu, 1)  # nn.DataParallel replicates the model, and replicas know nothing of a replay
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_loss_func=self._loss,
            compute_metrics=self._metrics,
            preprocess_logits_for_metrics=_logits_alone,
        )
        self.add_callback(self.divergence)
        self._epoch_began = time.perf_counter()

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the Trainer does, with gradients in the memory format that the model has."""
        self.trained = [parameter for parameter in self.classifier.parameters() if parameter.requires_grad]
        eager = not self.args.torch_compile  # a compiler chooses formats itself
        wanted = eager and self.suffix.memory_format == torch.channels_last
        formatted = channels_last_gradients(self.classifier) if wanted else nullcontext()
        with formatted, _only_these_have_gradients(self.classifier, self.trained):
            outcome: TrainOutput = super().train(*args, **kwargs)
            return outcome

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Train on a batch as the Trainer does, and note whether its loss is finite.

        Raises:
            HfftError: it cannot be trained on, or a data loader's worker could not read it.
        """
        try:
            loss: Tensor = super().training_step(model, received(inputs), *args, **kwargs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ArgumentError(
                "a batch norm of this model cannot learn from a batch of one image: give --per_device_train_batch_size "
                "2 or more"
            ) from error
        self.divergence.note(loss)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count none: the Trainer's estimate is one of tokens, and walks through the model at each step."""
        return 0

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer over the phase's parameters, one group per learning rate and weight decay."""
        if self.optimizer is None:
            try:
                optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            except (ImportError, ValueError) as error:
                raise ArgumentError(
                    f"--optim {getattr(self.args.optim, 'value', self.args.optim)}: {one_line(error)}"
                ) from error
            self.optimizer = optimizer_class(self._groups(model or self.model), **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Build the schedule; a warm-up of n steps begins at 1/n of the rate, so that the first step trains too.

        That of transformers begins at 0, with which a phase of a single step would train nothing.
        """
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            scheduler: Any = super().create_scheduler(num_training_steps, optimizer)
            for group in scheduler.optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])  # which schedules that follow a metric do not note
            if warmup > 0 and isinstance(scheduler, LambdaLR):
                factors = [_warmed(factor, warmup, num_training_steps) for factor in scheduler.lr_lambdas]
                self.lr_scheduler = LambdaLR(scheduler.optimizer, factors)
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of training batches.

        Raises:
            ArgumentError: ``--dataloader_drop_last`` would drop all images.
        """
        with self._augmented_rows():
            loader = self._prepared(super().get_train_dataloader())
        if not len(loader):
            raise ArgumentError(
                "--dataloader_drop_last true leaves no batch: there are fewer training images than a batch of "
                f"{self.args.train_batch_size} (in each process) takes; lower --per_device_train_batch_size"
            )
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Build the loader of evaluation batches; images are dropped in training alone."""
        with self._no_image_dropped():
            return self._prepared(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Build the loader of test batches; images are dropped in training alone."""
        with self._no_image_dropped():
            loader: DataLoader[Any] = super().get_test_dataloader(test_dataset)
            return loader

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the loss on the suffix alone where the batch holds cached activations."""
        suffix = self.suffix
        if self.augmentation is not None and model.training:
            suffix, inputs = self.augmentation(suffix, inputs, self.state.global_step)
        with suffix.inputs(self.classifier, inputs) as prepared:
            return super().compute_loss(model, prepared, return_outputs, num_items_in_batch)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch.

        Raises:
            HfftError: a data loader's worker could not read it.
        """
        return super().prediction_step(model, received(inputs), *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, with averaged weights where there are any."""
        with self.average.in_place(self.classifier) if self.average is not None else nullcontext():
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate; the loss is the mean over all examples, and the predictions stay in `predictions`.

        The Trainer's own figure averages batches, which weighs a last short batch too much.
        """
        output: EvalLoopOutput = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        assert output.metrics is not None
        if f"{prefix}_exact_loss" in output.metrics:
            output.metrics[f"{prefix}_loss"] = output.metrics.pop(f"{prefix}_exact_loss")
        self.predictions = output
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, with the seconds since the epoch began beside each evaluation.

        The learning rate that is logged is that of a parameter whose factor is 1.
        """
        if "learning_rate" in logs and self.optimizer is not None:
            # A measured ratio may be 0, and a rate of 0 says nothing of the schedule.
            group = next(group for group in self.optimizer.param_groups if group["initial_lr"])
            logs["learning_rate"] = group["lr"] * self.args.learning_rate / group["initial_lr"]
        if "eval_loss" in logs:
            now = time.perf_counter()
            logs["epoch_seconds"] = now - self._epoch_began
            self._epoch_began = now
        super().log(logs, start_time)

    def untrained_logits(self) -> NDArray[np.float32]:
        """Return the logits of the validation images as training begins; nothing in it changes by this, to the bit.

        An evaluation would be told to whoever keeps the best weights, stops early or shows progress, and its loader
        draws a random number. Every process must call this.

        Returns:
            Shape (images, labels).
        """
        callbacks, self.callback_handler.callbacks = self.callback_handler.callbacks, []
        try:
            device = self.args.device
            with same_random_numbers([device] if device.type == "cuda" else []):
                output = super().evaluation_loop(self.get_eval_dataloader(), "Evaluation", prediction_loss_only=False)
        finally:
            self.callback_handler.callbacks = callbacks
        return np.asarray(output.predictions, np.float32)

    def release(self) -> None:
        """Let go of the DDP wrap and of autocast; the bare model may then begin another phase.

        A DDP wrap that is still alive would go on averaging gradients of the parameters that it once saw. An evaluation
        puts autocast around the model again, and so does the next phase, but only where accelerate does not take the
        model for prepared already.

        A collection of garbage walks through all that is loaded, half a second on one core, so that it is left to the
        next training where nothing but memory of the CPU waits for it.
        """
        wrapped = self.model_wrapped is not self.classifier or self.accelerator.mixed_precision != "no"
        self.model_wrapped = self.classifier
        _without_autocast(self.classifier)
        if wrapped or self.args.device.type != "cpu" or self.args.dataloader_persistent_workers:
            self.accelerator.free_memory()
            gc.collect()

    def _prepared(self, loader: Any) -> DataLoader[Any]:
        """Let workers that outlive an epoch be seeded apart from training, and a GPU find its next cached rows ready.

        Such workers' loader draws a seed once in its life in place of once per epoch: a resumed run would draw once
        more. Nothing in a worker is random but augmentation, which has its own seed.
        """
        if self.args.dataloader_persistent_workers and getattr(loader, "generator", None) is None:
            loader.base_dataloader.generator = torch.Generator()
        pinned = self.args.dataloader_pin_memory and not self.args.dataloader_num_workers
        if self.args.device.type == "cuda" and pinned and self.suffix.split is not None:
            read_ahead(loader.base_dataloader)
        prepared: DataLoader[Any] = loader  # accelerate's own kind of loader has more to it
        return prepared

    @contextmanager
    def _augmented_rows(self) -> Iterator[None]:
        given, self.train_dataset = self.train_dataset, self.augmented or self.train_dataset
        try:
            yield
        finally:
            self.train_dataset = given

    @contextmanager
    def _no_image_dropped(self) -> Iterator[None]:
        given, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = given

    def _groups(self, model: Any) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                decay = self.args.weight_decay if name in decayed and parameter.ndim > 1 else 0.0
                groups.setdefault((self.phase.lr_scales[name], decay), []).append(parameter)
        return [
            {"params": parameters, "lr": self.args.learning_rate * scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ]

    def _loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        return self.objective.loss(logits_of(outputs), labels, num_items_in_batch)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.accelerator.distributed_type not in _WHOLE_MODELS:
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        return self.accelerator.clip_grad_norm_(self.trained, self.args.max_grad_norm)

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        logits, targets = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        metrics = self.objective.task.epoch_metrics(logits, targets)
        metrics["exact_loss"] = metrics.pop("loss")
        return metrics

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.checkpoints is None:
            super()._save_checkpoint(model, trial)
        else:
            self.checkpoints.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.checkpoints is None:  # else the weights were restored when the run was set up
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.checkpoints is None:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            self.checkpoints.restore_optimizer(self)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.checkpoints is None:  # else it comes with the optimizer
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.checkpoints is None:
            super()._load_rng_state(checkpoint)
        elif checkpoint is not None:
            self.checkpoints.restore_random_state(self)


class KeepAnswers(TrainerCallback):
    """Keeps what is said of the validation images: before training, and at each evaluation.

    Args:
        trainer: of the phase.
        answers: of the run; they are added to.
        before: epochs of the phases that have ended.
    """

    def __init__(self, trainer: FreezeTrainer, answers: EpochAnswers, before: float) -> None:
        self.trainer, self.answers, self.before, self.training = trainer, answers, before, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the validation images once, in a way that the training cannot tell."""
        self.training = True
        if self.before == 0 and state.global_step == 0 and not args.eval_on_start:
            self.answers.add(0.0, self.trainer.untrained_logits())

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note what has just been said."""
        if not self.training:
            return
        found = self.trainer.predictions
        assert found is not None
        self.answers.add(self.before + (state.epoch or 0.0), np.asarray(found.predictions))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass over what is evaluated after training: other weights may have been put back."""
        self.training = False


@contextmanager
def _only_these_have_gradients(model: nn.Module, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within this context ``model.zero_grad()`` walks through these parameters alone, not through the frozen ones."""

    def zero_grad(set_to_none: bool = True) -> None:
        for parameter in trained:
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.zero_()

    object.__setattr__(model, "zero_grad", zero_grad)
    try:
        yield
    finally:
        vars(model).pop("zero_grad")


def _without_autocast(model: nn.Module) -> None:
    """Give a model its own forward back, which accelerate's unwrap_model strips of transformers' decorators as well."""
    own = vars(model)
    own.pop("_is_accelerate_prepared", None)
    original = own.pop("_original_forward", None)
    if original is not None:
        own.pop("forward")
        if model.forward != original:  # it was not that of the class
            own["forward"] = original


def _warmed(factor: Callable[[int], float], warmup: int, steps: int) -> Callable[[int], float]:
    """Return a schedule's factor of each step, with a warm-up that is a step ahead and reaches 1 in its last step."""
    # After the last step the schedule is asked once more; one that never fell cannot always answer.
    lasting = steps + 1 if warmup >= steps else 0

    def warmed(step: int) -> float:
        if step + 1 < warmup:
            return factor(step + 1)
        return 1.0 if step < max(warmup, lasting) else factor(step)

    return warmed


def _logits_alone(logits: Any, labels: Tensor) -> Tensor:
    """Drop what some models return beside the logits."""
    alone: Tensor = logits[0] if isinstance(logits, tuple) else logits
    return alone.float()
