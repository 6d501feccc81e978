"""What watches a phase while it trains: best weights, averages, views, progress, and SIGTERM."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import SaveStrategy

from hfft.errors import ArgumentError, DivergedError, PreemptedError
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training_flags import METRICS

METRICS_OF_CHOICE = tuple(f"eval_{name}" for name in METRICS)
_ROUNDING = 1e-6  # epochs are sums of fractions


class PhaseCallback(TrainerCallback):
    """A callback of the caller's that wants to know of phases; the Trainer's state counts each of them from 0."""

    def on_phase_begin(self, name: str, before: float) -> None:
        """Hear that a phase is about to train.

        Args:
            name: what the trace calls it.
            before: epochs of the phases that have ended.
        """

    def on_fill(self, done: int, total: int) -> None:
        """Hear of a batch that has passed the frozen part on its way into the cache.

        Args:
            done: images of this split that have passed.
            total: images of this split that pass.
        """


class FirstStep(TrainerCallback):
    """Says when an optimizer step has been made."""

    def __init__(self, say: Callable[[], None]) -> None:
        self.say = say

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say so."""
        self.say()


@dataclass
class Best:
    """The best weights of a run so far.

    Args:
        score: what decides, validation accuracy by default, higher being better, and the negative validation loss
            among equals; None before an evaluation.
        epoch: epochs done when they were seen, over all phases.
        stale: evaluations in this phase since then.
        tensors: the weights, of what the phase may change.
    """

    score: tuple[float, float] | None = None
    epoch: float = 0.0
    stale: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)


class KeepBest(TrainerCallback):
    """Keeps the weights of the best epoch in memory, puts them back at the end, and ends a phase that stalls.

    Best is the highest validation accuracy (or other metric of the task), or what ``--metric_for_best_model`` names,
    and among equals the lowest validation loss, over all phases so far. Where evaluations follow steps, the last step
    has one too. Only tensors that can change are copied, so that nothing of the size of the model is written per epoch.

    Args:
        best: of the run; a later phase goes on with it.
        names: trainable parameters and the buffers that training moves.
        before: epochs of earlier phases.
        patience: evaluations without a new best after which the phase ends (early stopping); None for never.
        restore: whether the best weights are put back at the end; else a phase looks for the best of its own.
        copies: whether they are kept at all, for a training that diverges if for nothing else.
        metric: that decides where ``--metric_for_best_model`` is not given; higher is better.
    """

    def __init__(
        self,
        best: Best,
        names: frozenset[str],
        before: float = 0.0,
        patience: int | None = None,
        restore: bool = True,
        metric: str = SINGLE_LABEL.metric,
        copies: bool = True,
    ) -> None:
        self.best, self.names, self.before = best, names, before
        self.patience, self.restore, self.metric, self.copies = patience, restore, metric, copies

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the weights that the phase before has left in the model, its best ones or its last."""
        if state.global_step == 0:
            self.best.stale = 0
            self.best.tensors = {}
            if self.best.score is not None:
                if not self.restore:
                    self.best.score, self.best.epoch = None, self.before
                self._copy(kwargs["model"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Copy the weights if this epoch is the best so far."""
        metrics = kwargs["metrics"]
        score = (deciding(args, metrics, self.metric), -metrics["eval_loss"])
        if self.best.score is None or score > self.best.score:
            self.best.score, self.best.epoch, self.best.stale = score, self.before + state.epoch, 0
            self._copy(kwargs["model"])
        else:
            self.best.stale += 1
        if self.patience is not None and self.best.stale >= self.patience:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate the last step's weights as well: what was not evaluated cannot be the best."""
        if args.eval_strategy == "steps" and args.eval_delay <= state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the best weights back."""
        if self.restore:
            kwargs["model"].load_state_dict(self.best.tensors, strict=False)

    def _copy(self, model: nn.Module) -> None:
        if self.copies:
            self.best.tensors = _copies(model, self.names)


def deciding(args: Any, metrics: Mapping[str, float], metric: str) -> float:
    """Return of an evaluation's metrics the one that decides which weights are best, higher being better.

    One that these images leave undefined, as R2 on a single image, is lower than any other.

    Args:
        args: the training arguments.
        metrics: of an evaluation.
        metric: that decides where ``--metric_for_best_model`` is not given.

    Raises:
        ArgumentError: these images do not have it.
    """
    name = f"eval_{args.metric_for_best_model or metric}"
    if name not in metrics:  # top5_accuracy, with at most five labels
        found = ", ".join(key.removeprefix("eval_") for key in METRICS_OF_CHOICE if key in metrics)
        raise ArgumentError(f"--metric_for_best_model: these images have no {name[5:]}, but {found}")
    value = metrics[name] if args.greater_is_better in (None, True) else -metrics[name]
    return value if math.isfinite(value) else -math.inf


class Average(TrainerCallback):
    """An exponential moving average of the weights, which evaluations and the result are made with.

    After step t the average moves by ``1 - min(decay, (1 + t) / (10 + t))`` towards the weights, so that a short
    run is not held back by its random head (Polyak and Juditsky, "Acceleration of stochastic approximation by
    averaging", 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage).

    Args:
        names: of the tensors that training moves; whole numbers among them are taken as they are.
        decay: between 0 and 1.
    """

    def __init__(self, names: frozenset[str], decay: float) -> None:
        self.names, self.decay = names, decay
        self.tensors: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the weights as they are."""
        if state.global_step == 0:
            self.tensors = _copies(kwargs["model"], self.names)

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the average towards the weights."""
        keep = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        weights = kwargs["model"].state_dict()
        for name, tensor in self.tensors.items():
            if tensor.is_floating_point():
                tensor.lerp_(weights[name], 1 - keep)
            else:
                tensor.copy_(weights[name])

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Within this context the model holds the averaged weights, once there are any."""
        if not self.tensors:
            yield
            return
        weights = _copies(model, self.names)
        model.load_state_dict(self.tensors, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(weights, strict=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the averaged weights in the model."""
        kwargs["model"].load_state_dict(self.tensors, strict=False)
        self.tensors = {}


class Views(TrainerCallback):
    """Tells the training set which epoch of the run it is, so that it shows that epoch's augmented view.

    Nothing else may tell it. The name of the data sets' method is one that no library calls: loaders call a
    ``set_epoch``, with the epoch of the phase, and not where the first batches of a resumed epoch are skipped.

    Args:
        show_view: takes the number of the epoch, counted from 0 over all phases.
        before: epochs of earlier phases; one that was cut short counts as a whole one.
    """

    def __init__(self, show_view: Callable[[int], None], before: float = 0.0) -> None:
        self.show_view, self.before = show_view, math.ceil(before - _ROUNDING)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the epoch's view; a resumed epoch counts as the one it belongs to."""
        self.show_view(self.before + int(state.epoch + _ROUNDING))


class QuietProgress(ProgressCallback):
    """The Trainer's progress bars, named, without its log lines; the epoch table says the same at the end."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the bar of training."""
        super().on_train_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]  # of transformers
        if self.training_bar is not None:
            self.training_bar.set_description("Training")

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kw: Any) -> None:
        """Move the bar of an evaluation."""
        super().on_prediction_step(args, state, control, eval_dataloader, **kw)  # type: ignore[no-untyped-call]
        if self.prediction_bar is not None:
            self.prediction_bar.set_description("Evaluation", refresh=False)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print nothing."""


def _copies(model: nn.Module, names: frozenset[str]) -> dict[str, Tensor]:
    tensors: Mapping[str, Tensor] = model.state_dict()
    return {name: tensors[name].detach().clone() for name in names}


RESUME_HINT = "run the same command with --resume_from_checkpoint true to go on"


class Preemption:
    """Within this context SIGTERM ends a run in good order.

    While a phase trains, the signal is noted and `StopAndSave` acts on it after the step; at any other time it
    raises at once, since what is complete is on the disk.

    Attributes:
        asked: whether the signal came.
        training: whether a phase is training.
    """

    def __init__(self) -> None:
        self.asked = False
        self.training = False
        self._earlier: Any = None

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._earlier = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._earlier is not None:
            signal.signal(signal.SIGTERM, self._earlier)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.training:
            raise PreemptedError("stopped by SIGTERM; what was complete is kept")

    def agreed(self, args: Any) -> bool:
        """Return whether the signal has reached any process; all of them must ask at the same step."""
        if args.world_size == 1:
            return self.asked
        asked = torch.tensor(int(self.asked), device=args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        self.asked = bool(asked.item())
        return self.asked


class StopAndSave(TrainerCallback):
    """Saves a checkpoint and ends the training when a preemption asks for it.

    An evaluation and a checkpoint at an epoch's last step wait for what is logged and evaluated at its end, so that
    resuming does not skip that.

    Args:
        preemption: says when.
    """

    def __init__(self, preemption: Preemption) -> None:
        self.preemption = preemption
        self.saved = self.due = self.evaluates = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop after this step, unless it is the last of its epoch."""
        steps = max(1, -(-len(kwargs["train_dataloader"]) // args.gradient_accumulation_steps))
        last = state.global_step % steps == 0 or state.global_step >= state.max_steps
        asked = self.preemption.agreed(args)
        if last:
            self.due, control.should_save = control.should_save or asked, False
            self.evaluates, control.should_evaluate = control.should_evaluate, False
        elif asked:
            self._end(args, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do what was put off; end without an evaluation where the epoch was cut short."""
        control.should_evaluate |= self.evaluates
        if self.saved:
            control.should_save = control.should_evaluate = control.should_log = False
        elif self.due or self.preemption.agreed(args):
            control.should_save = True
            if self.preemption.asked:
                self._end(args, control)
        self.due = self.evaluates = False

    def _end(self, args: Any, control: Any) -> None:
        """Save and stop; with ``--save_strategy best`` an evaluation would have the Trainer save its best alone."""
        args.save_strategy = SaveStrategy.NO
        control.should_save = control.should_training_stop = self.saved = True


class EndIfDiverged(TrainerCallback):
    """Ends a training whose loss is not finite: before the step that would spoil the weights, on all processes at once.

    It comes before whatever keeps the best weights or averages them.

    Args:
        phase: what the trace calls it.
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self._finite: Tensor | None = None

    def note(self, loss: Tensor) -> None:
        """Take the loss of a batch, of this process's share."""
        finite = torch.isfinite(loss.detach()).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold every process's losses since the last step to be finite."""
        if self._finite is None:
            return
        finite, self._finite = self._finite.int(), None
        if args.world_size > 1:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        if not finite.item():
            raise self._error("training", f"step {state.global_step + 1}", args)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold the validation loss, which all processes know, to be finite."""
        if not math.isfinite(kwargs["metrics"].get("eval_loss", 0.0)):
            raise self._error("validation", f"epoch {state.epoch or 0:g}", args)

    def _error(self, which: str, moment: str, args: Any) -> DivergedError:
        return DivergedError(
            f"the training diverged: the {which} loss is no longer a finite number at {moment} of phase {self.phase}; "
            f"try a lower --learning_rate than {args.learning_rate:g}"
        )
