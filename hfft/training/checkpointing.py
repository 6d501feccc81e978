"""Write checkpoints in the middle of a phase, and give a trainer the state of one."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerCallback

from hfft.errors import OutputError, one_line
from hfft.training.resume import (
    FORMAT,
    RECORD,
    STATE,
    TENSORS,
    Checkpoint,
    ResumePoint,
    list_checkpoints,
    remove_checkpoints,
)
from hfft.training.trainer import FreezeTrainer


class PhaseCheckpoints:
    """Writes the checkpoints of one phase, and restores one into its trainer.

    Args:
        folder: the run's output folder, which all processes see.
        point: the run so far; its `best` and `average` are read when a checkpoint is made.
        resumed: the checkpoint that this phase goes on from, or None.
    """

    def __init__(self, folder: Path, point: ResumePoint, resumed: Checkpoint | None = None) -> None:
        self.folder, self.point, self.resumed = folder, point, resumed
        self.newest: Path | None = resumed.folder if resumed is not None else None

    def save(self, trainer: FreezeTrainer) -> None:
        """Write ``checkpoint-STEP`` beside the earlier ones and delete those above ``--save_total_limit``.

        Every process writes its random state; the first writes all else. The folder gets its name when it is whole.

        Raises:
            OutputError: it cannot be written; earlier checkpoints are as they were.
        """
        args = trainer.args
        name = f"checkpoint-{self.point.steps + trainer.state.global_step}"
        partial, target = self.folder / f".{name}.partial", self.folder / name
        try:
            if args.process_index == 0:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            _barrier(args.world_size)
            _write_json(partial / f"rank-{args.process_index}.json", _random_state(trainer))
            if args.process_index == 0:
                save_file(dict(self._tensors(trainer)), partial / TENSORS)
                _write_json(partial / STATE, _state(trainer))
                _write_json(partial / RECORD, self._record(trainer))
            _barrier(args.world_size)
            if args.process_index == 0:
                _publish(partial, target)
                remove_checkpoints(self.folder, keep=args.save_total_limit or len(list_checkpoints(self.folder)))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = getattr(error, "strerror", None) or one_line(error)
            raise OutputError(
                f"cannot write {target}: {reason}; earlier checkpoints are as they were. Free some room and go on with "
                "--resume_from_checkpoint true"
            ) from error
        _barrier(args.world_size)
        self.newest = target

    def restore_optimizer(self, trainer: FreezeTrainer) -> None:
        """Restore the optimizer's state by parameter name, the schedule and the gradient scaler."""
        assert self.resumed is not None
        record, saved = self.resumed.record, self.resumed.tensors["optimizer"]
        optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
        assert optimizer is not None
        assert scheduler is not None
        names = _names(trainer)
        states: dict[str, dict[str, Any]] = {}
        for key, tensor in saved.items():
            name, _, entry = key.rpartition("/")
            states.setdefault(name, {})[entry] = tensor
        for name, values in record["optimizer"]["values"].items():
            states.setdefault(name, {}).update(values)
        order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        indexed = {number: _shaped(states[names[p]], p) for number, p in enumerate(order) if names[p] in states}
        groups = optimizer.state_dict()["param_groups"]
        for group, rates in zip(groups, record["optimizer"]["groups"], strict=True):
            group.update(rates)
        optimizer.load_state_dict({"state": indexed, "param_groups": groups})
        scheduler.load_state_dict(record["scheduler"])
        if trainer.accelerator.scaler is not None and record["scaler"]:
            trainer.accelerator.scaler.load_state_dict(record["scaler"])

    def restore_random_state(self, trainer: FreezeTrainer) -> None:
        """Restore this process's sources of random numbers."""
        assert self.resumed is not None
        state = json.loads(
            (self.resumed.folder / f"rank-{trainer.args.process_index}.json").read_text(encoding="utf-8")
        )
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))
        torch.set_rng_state(_tensor(state["torch"]))
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(_tensor(state["cuda"]), trainer.args.device)

    def restore_sums(self, trainer: FreezeTrainer) -> None:
        """Restore what the Trainer adds up between two log entries, and over the phase."""
        assert self.resumed is not None
        state = json.loads(
            (self.resumed.folder / f"rank-{trainer.args.process_index}.json").read_text(encoding="utf-8")
        )
        trainer._tr_loss.fill_(state["loss"])
        trainer._total_loss_scalar, trainer._globalstep_last_logged = state["total_loss"], state["logged"]
        trainer._initial_global_step = 0

    def _tensors(self, trainer: FreezeTrainer) -> Iterator[tuple[str, Tensor]]:
        point, state = self.point, trainer.classifier.state_dict()
        groups = {
            "model": {name: state[name] for name in point.changed},
            "best": point.best.tensors if point.best is not None else {},
            "average": point.average.tensors if point.average is not None else {},
            "optimizer": {key: value for key, value in _optimizer_entries(trainer) if isinstance(value, Tensor)},
            "answers": _answers(point),
            "features": {split: torch.from_numpy(values) for split, values in point.features.items()},
        }
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                yield f"{group}/{name}", tensor.detach().cpu().contiguous().clone()

    def _record(self, trainer: FreezeTrainer) -> dict[str, Any]:
        point, best = self.point, self.point.best
        values: dict[str, dict[str, Any]] = {}
        for key, value in _optimizer_entries(trainer):
            if not isinstance(value, Tensor):
                name, _, entry = key.rpartition("/")
                values.setdefault(name, {})[entry] = value
        assert trainer.optimizer is not None
        assert trainer.lr_scheduler is not None
        rates = [
            {name: value for name, value in group.items() if name != "params"}
            for group in trainer.optimizer.param_groups
        ]
        scaler = trainer.accelerator.scaler
        return {
            "format": FORMAT,
            "identity": point.identity,
            "phase": point.phase,
            "done": point.done,
            "lr_scales": point.lr_scales,
            "learning_rate": point.learning_rate,
            "best": [best.score, best.epoch, best.stale] if best is not None else None,
            "optimizer": {"groups": rates, "values": values},
            "scheduler": trainer.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }


class RestoreSums(TrainerCallback):
    """Calls `PhaseCheckpoints.restore_sums` when the Trainer has set them to nothing, as training begins."""

    def __init__(self, checkpoints: PhaseCheckpoints, trainer: FreezeTrainer) -> None:
        self.checkpoints, self.trainer = checkpoints, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore them."""
        self.checkpoints.restore_sums(self.trainer)


def _answers(point: ResumePoint) -> dict[str, Tensor]:
    """Return what was said of the validation images so far; nothing where it was not kept."""
    if not point.answers.logits:
        return {}
    epochs = torch.tensor(point.answers.epochs, dtype=torch.float64)
    return {"epochs": epochs, "logits": torch.from_numpy(np.stack(point.answers.logits))}


def _optimizer_entries(trainer: FreezeTrainer) -> Iterator[tuple[str, Any]]:
    """Yield ``parameter name/entry`` with each entry of the optimizer's state."""
    assert trainer.optimizer is not None
    names = _names(trainer)
    for parameter, state in trainer.optimizer.state.items():
        for entry, value in state.items():
            yield f"{names[parameter]}/{entry}", value


def _names(trainer: FreezeTrainer) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in trainer.classifier.named_parameters()}


def _shaped(state: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Give entries of the parameter's shape its memory format too."""
    return {
        name: torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in state.items()
    }


def _state(trainer: FreezeTrainer) -> dict[str, Any]:
    """Return the Trainer's own state as plain data, without its callbacks', which hfft keeps itself."""
    return {**asdict(trainer.state), "stateful_callbacks": {}}


def _random_state(trainer: FreezeTrainer) -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    device = trainer.args.device
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
        "loss": trainer._tr_loss.item(),
        "total_loss": trainer._total_loss_scalar,
        "logged": trainer._globalstep_last_logged,
    }


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.uint8).copy())


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")


def _publish(partial: Path, target: Path) -> None:
    """Give a whole checkpoint its name once it is on the disk; one of that name is replaced."""
    for file in partial.iterdir():
        with file.open("r+b") as opened:  # Windows syncs no file that is only read
            os.fsync(opened.fileno())
    if target.exists():
        aside = target.with_name(f".{target.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(target, aside)
    os.replace(partial, target)


def _barrier(world_size: int) -> None:
    if world_size > 1:
        torch.distributed.barrier()
