"""Learning rates that are measured: a range test, and ratios of gradients to weights."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from hfft.data.preprocessing import collate
from hfft.errors import DivergedError
from hfft.models.forward import logits_of
from hfft.training.trainer import FreezeTrainer

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
DIVERGED = 4.0
"""The test ends when the smoothed loss is so many times the smallest one."""
SMOOTHING = 0.9


@dataclass(frozen=True)
class LearningRates:
    """A learning rate, and the curve that it was read from.

    Args:
        learning_rate: to train with.
        tried: learning rates of the test, in order; empty where none was made.
        losses: smoothed training loss at each of them.
    """

    learning_rate: float
    tried: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def find_learning_rate(trainer: FreezeTrainer, names: frozenset[str]) -> LearningRates:
    """Train `STEPS` steps at rates from `LOWEST` to `HIGHEST`, put the weights back, and suggest a rate.

    Args:
        trainer: to throw away; its phase, data and objective are those of the training that follows.
        names: of all tensors that training may change.
    """
    state = trainer.classifier.state_dict()
    before = {name: state[name].detach().clone() for name in names}
    trainer.args = _arguments(trainer)
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ not in ("DefaultFlowCallback", "Views"):
            trainer.remove_callback(callback)
    curve = _Curve()
    trainer.add_callback(curve)
    trainer.lr_scheduler = LambdaLR(trainer.create_optimizer(), lambda step: (HIGHEST / LOWEST) ** (step / STEPS))
    trainer.train()
    trainer.release()
    trainer.classifier.load_state_dict(before, strict=False)
    return LearningRates(suggest(curve.tried, curve.losses), curve.tried, curve.losses)


def suggest(tried: list[float], losses: list[float]) -> float:
    """Return the rate around which the loss falls most steeply over the logarithm of the rate.

    The slope is that of a line through half a decade to either side, so that the noise of single batches does not
    count.

    Args:
        tried: rising learning rates.
        losses: smoothed training loss at each of them.

    Raises:
        DivergedError: there are none, as the first loss was no finite number.
    """
    if not tried:
        raise DivergedError(
            "--find_lr: the loss is not a finite number at the lowest learning rate; see that images, labels and the "
            "pretrained weights are what you think"
        )
    rates, heights = np.log10(tried), np.asarray(losses)
    windows = [np.flatnonzero(np.abs(rates - middle) <= 0.5) for middle in rates]
    slopes = [np.polyfit(rates[near], heights[near], 1)[0] if len(near) > 2 else 0.0 for near in windows]
    return float(tried[int(np.argmin(slopes))])


class _Curve(TrainerCallback):
    """Notes the learning rate and the smoothed loss of each step, and ends the test when the loss diverges."""

    def __init__(self) -> None:
        self.tried: list[float] = []
        self.losses: list[float] = []
        self._mean = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        loss = logs["loss"]
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        smoothed = self._mean / (1 - SMOOTHING ** (len(self.losses) + 1))
        if not math.isfinite(loss) or smoothed > DIVERGED * min(self.losses, default=smoothed):
            control.should_training_stop = True
            return
        self.tried.append(logs["learning_rate"])
        self.losses.append(smoothed)


def _arguments(trainer: FreezeTrainer) -> Any:
    args = copy.copy(trainer.args)
    args.learning_rate, args.max_steps, args.logging_steps = LOWEST, STEPS, 1
    args.logging_strategy, args.eval_strategy, args.save_strategy = "steps", "no", "no"
    args.logging_nan_inf_filter = False
    return args


BATCHES = 8


def gradient_ratios(trainer: FreezeTrainer) -> dict[str, float]:
    """Measure for each trainable tensor the norm of its gradient over its own norm, relative to the largest.

    This is the relative gradient norm of Auto-RGN (Lee et al., "Surgical fine-tuning improves adaptation to
    distribution shifts", 2023, section 4), averaged over `BATCHES` random batches of the size of a step over all
    processes; they are the same in every process, however many there are. A tensor that no gradient reaches gets
    0; one of zeros, whose ratio has no bound, gets 1.

    Args:
        trainer: before its training; the weights stay as they are.

    Returns:
        By parameter name, a factor from 0 to 1.
    """
    model, dataset = trainer.classifier, cast(Any, trainer.train_dataset)
    part = trainer.args.per_device_train_batch_size
    size = min(part * trainer.args.world_size, len(dataset))
    generator = torch.Generator().manual_seed(trainer.args.seed)
    tensors = {name: tensor for name, tensor in model.named_parameters() if name in trainer.phase.trainable}
    sums = dict.fromkeys(tensors, 0.0)
    for _ in range(BATCHES):
        chosen = torch.randperm(len(dataset), generator=generator)[:size]
        for rows in chosen.split(part):  # as many at once as a process has memory for
            _into_eval(model)
            items = collate([dataset[row] for row in rows.tolist()])
            batch = {name: value.to(trainer.args.device) for name, value in items.items()}
            with trainer.accelerator.autocast(), trainer.suffix.inputs(model, batch) as inputs:
                labels = inputs.pop("labels")
                trainer.objective.loss(logits_of(model(**inputs)), labels, size).backward()
        for name, tensor in tensors.items():
            sums[name] += _ratio(tensor)
        model.zero_grad(set_to_none=True)
    _into_eval(model)
    largest = max((value for value in sums.values() if value != float("inf")), default=0.0)
    return {name: min(1.0, value / largest) if largest else 1.0 for name, value in sums.items()}


def _into_eval(model: nn.Module) -> None:
    """Enter eval mode anew: some models (LeViT) keep attention biases from there on, with the graph of one backward."""
    model.train()
    model.eval()


def _ratio(tensor: Tensor) -> float:
    if tensor.grad is None or not tensor.grad.any():
        return 0.0
    norm = float(tensor.detach().float().norm())
    return float(tensor.grad.float().norm()) / norm if norm else float("inf")
