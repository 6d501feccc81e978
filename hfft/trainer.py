"""The Trainer wrapper: one Phase of one Plan, on cached activations or on pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from hfft.arguments import FinetuneArguments
from hfft.class_token import class_token_only
from hfft.freezing import freeze
from hfft.metrics import classification_metrics
from hfft.pixels import collate
from hfft.plugin import Anatomy
from hfft.policies import Phase
from hfft.recording import logits_of
from hfft.split import Split


@dataclass(frozen=True)
class Suffix:
    """How a batch reaches the trainable part of a model.

    Args:
        anatomy: the model's parts.
        split: set where batches may hold cached activations; a batch of pixels runs through all of the model.
        class_token: compute the class token alone in the last block.
        memory_format: of inputs of shape (batch, channels, height, width).
    """

    anatomy: Anatomy
    split: Split | None = None
    class_token: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    @contextmanager
    def inputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Within this context `model`, called with what is yielded, computes no more than it must.

        Args:
            model: the bare model, not its DDP wrap.
            batch: cached activations, or the model's inputs; with ``labels`` or without.
        """
        rest = {name: tensor for name, tensor in batch.items() if name != "labels"}
        labels = {name: tensor for name, tensor in batch.items() if name == "labels"}
        with ExitStack() as stack:
            stack.enter_context(class_token_only(model, self.anatomy, self.class_token))
            if self.split is not None and self.split.leaves[0].key in rest:
                rest = stack.enter_context(self.split.replay(rest))
            else:
                rest = {name: self._formatted(tensor) for name, tensor in rest.items()}
            yield {**rest, **labels}

    def _formatted(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self.memory_format) if tensor.ndim == 4 else tensor


class FreezeTrainer(Trainer):
    """transformers' Trainer under a static freeze.

    Everything of the Trainer works as ever: its arguments, callbacks, loggers and ``accelerate launch``.
    Overridden are named hooks alone: the optimizer (trainable parameters with their learning rates), the
    loss (cross-entropy on the logits, for every architecture alike) and the evaluation's loss (over all
    examples, each once).

    Args:
        model: the model; it is frozen here as `phase` says, until `hfft.freezing.unfreeze`.
        args: training arguments; ``num_train_epochs`` is taken from the phase.
        phase: what is trained.
        suffix: how a batch reaches the trainable part.
        train_dataset: items or batches of cached activations or pixels, with labels.
        eval_dataset: the same for validation.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: FinetuneArguments,
        phase: Phase,
        suffix: Suffix,
        train_dataset: Dataset[Any] | None = None,
        eval_dataset: Dataset[Any] | None = None,
    ) -> None:
        self.phase = phase
        self.suffix = suffix
        self.predictions: EvalLoopOutput | None = None
        freeze(model, phase)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_loss_func=self._cross_entropy,
            compute_metrics=_metrics,
            preprocess_logits_for_metrics=_logits_alone,
        )
        self._epoch_began = time.perf_counter()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer over the phase's parameters, one group per learning rate and weight decay."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = optimizer_class(self._groups(model or self.model), **options)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the loss on the suffix alone where the batch holds cached activations."""
        with self.suffix.inputs(self.accelerator.unwrap_model(model), inputs) as prepared:
            return super().compute_loss(model, prepared, return_outputs, num_items_in_batch)

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
            first = self.optimizer.param_groups[0]
            logs["learning_rate"] *= self.args.learning_rate / first["initial_lr"]
        if "eval_loss" in logs:
            now = time.perf_counter()
            logs["epoch_seconds"] = now - self._epoch_began
            self._epoch_began = now
        super().log(logs, start_time)

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

    def _cross_entropy(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        total = F.cross_entropy(
            logits_of(outputs).float(), labels, reduction="sum", label_smoothing=self.args.label_smoothing_factor
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def idle_parameters(model: nn.Module, suffix: Suffix, batch: Mapping[str, Tensor]) -> list[str]:
    """Return the trainable parameters that a step gives no gradient.

    Some models hold a norm or a pooler that their classifier never reads; DDP waits for its gradient in vain
    unless it is told to look for such parameters.

    Args:
        model: the bare model, frozen as its phase says.
        suffix: how the batch reaches its trainable part.
        batch: activations or pixels, on the model's device.
    """
    training = model.training
    model.eval()
    with suffix.inputs(model, {name: tensor for name, tensor in batch.items() if name != "labels"}) as inputs:
        logits_of(model(**inputs)).sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    model.zero_grad(set_to_none=True)
    model.train(training)
    return idle


class KeepBest(TrainerCallback):
    """Keeps the weights of the best epoch in memory and puts them back at the end.

    Best is the highest validation accuracy, and among equals the lowest validation loss. Only tensors
    that can change are copied, so that nothing of the size of the model is written per epoch.

    Args:
        names: trainable parameters and the buffers that training moves.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.best: tuple[float, float] | None = None
        self.epoch = 0.0
        self.tensors: dict[str, Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Copy the weights if this epoch is the best so far."""
        metrics = kwargs["metrics"]
        score = (metrics["eval_accuracy"], -metrics["eval_loss"])
        if self.best is None or score > self.best:
            self.best, self.epoch = score, state.epoch
            tensors = kwargs["model"].state_dict()
            self.tensors = {name: tensors[name].detach().clone() for name in self.names}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the best weights back."""
        if self.tensors:
            kwargs["model"].load_state_dict(self.tensors, strict=False)


class Views(TrainerCallback):
    """Tells the training set which epoch it is, so that it serves that epoch's augmented view."""

    def __init__(self, set_epoch: Callable[[int], None]) -> None:
        self.set_epoch = set_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch; a resumed epoch counts as the one it belongs to."""
        self.set_epoch(int(state.epoch + 1e-6))


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    metrics = classification_metrics(np.asarray(prediction.predictions), np.asarray(prediction.label_ids))
    metrics["exact_loss"] = metrics.pop("loss")
    return metrics


def _logits_alone(logits: Any, labels: Tensor) -> Tensor:
    """Drop what some models return beside the logits."""
    alone: Tensor = logits[0] if isinstance(logits, tuple) else logits
    return alone.float()
