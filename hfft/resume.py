"""Checkpoints to resume from: small, written whole or not at all, and exact to the last bit.

``checkpoint-STEP`` holds the tensors that training has changed so far, the optimizer's state by parameter name,
every source of random numbers, and how far the run has come. The frozen rest is the base model's, which is
found again by its hash. Tensors are in safetensors files and all else is JSON, so that nothing is unpickled.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hfft.callbacks import Average, Best
from hfft.errors import ArgumentError, OutputError

if TYPE_CHECKING:
    from hfft.trainer import FreezeTrainer

FORMAT = 1
RECORD, TENSORS, STATE = "checkpoint.json", "tensors.safetensors", "trainer_state.json"


@dataclass
class Moment:
    """A moment within a run, beside weights and optimizer.

    Args:
        identity: by name, what a run must share with this one to go on from here.
        phase: index of the phase that is under way.
        done: of the phases before it, as plain data.
        steps: of the phases before it, in all.
        changed: names of all tensors that the run may have changed so far.
        best: weights so far; None where they are not kept.
        average: of the weights; None where there is none.
        lr_scales: of the phase, by parameter name.
        learning_rate: of the phase.
    """

    identity: dict[str, Any]
    phase: int
    done: dict[str, Any]
    steps: int
    changed: frozenset[str]
    best: Best | None = None
    average: Average | None = None
    lr_scales: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, opened.

    Args:
        folder: where it lies.
        record: what ``checkpoint.json`` holds.
        tensors: by group (model, best, average, optimizer) and name.
    """

    folder: Path
    record: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]

    @property
    def phase(self) -> int:
        """Index of the phase that it was made in."""
        return int(self.record["phase"])

    def check(self, identity: dict[str, Any]) -> None:
        """Make sure that it belongs to this run.

        Raises:
            ArgumentError: naming every difference.
        """
        before = self.record["identity"]
        names = [name for name in {**before, **identity} if before.get(name) != identity.get(name)]
        if names:
            differences = "; ".join(f"{name} was {before.get(name)!r} and is {identity.get(name)!r}" for name in names)
            raise ArgumentError(
                f"{self.folder} belongs to another run: {differences}. Give the flags of that run, or start anew with "
                "--overwrite_output_dir and without --resume_from_checkpoint"
            )

    def restore_weights(self, model: nn.Module) -> None:
        """Give a model that holds its base's weights those of the checkpoint."""
        state = model.state_dict()
        with torch.no_grad():
            for name, tensor in self.tensors["model"].items():
                state[name].copy_(tensor)

    def restore(self, best: Best | None, average: Average | None, device: torch.device) -> None:
        """Restore the best and the averaged weights."""
        if best is not None and self.record["best"] is not None:
            score, best.epoch, best.stale = self.record["best"]
            best.score = tuple(score) if score is not None else None
            best.tensors = {name: tensor.to(device) for name, tensor in self.tensors["best"].items()}
        if average is not None:
            average.tensors = {name: tensor.to(device) for name, tensor in self.tensors["average"].items()}


def find_checkpoint(wish: str | bool | None, folder: Path) -> Checkpoint | None:
    """Open the checkpoint that ``--resume_from_checkpoint`` asks for.

    Args:
        wish: true (or the text ``true``) for the newest in `folder`, a path, or anything else for none.
        folder: the run's output folder.

    Returns:
        None where none is wanted, and where a run was interrupted before its first one.

    Raises:
        ArgumentError: the path holds no checkpoint of hfft.
        OutputError: its files are damaged.
    """
    if isinstance(wish, str) and wish.lower() in ("true", "false", ""):
        wish = wish.lower() == "true"
    if not wish:
        return None
    if wish is not True:
        if not (Path(wish) / RECORD).is_file():
            raise ArgumentError(
                f"--resume_from_checkpoint {wish} holds no {RECORD}; give a checkpoint-* folder of hfft"
            )
        return _open(Path(wish))
    found = list_checkpoints(folder)
    return _open(found[-1]) if found else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, oldest first."""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    whole = {path: int(match[1]) for path, match in steps.items() if match and (path / RECORD).is_file()}
    return sorted(whole, key=lambda path: whole[path])


def remove_checkpoints(folder: Path, keep: int = 0) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted one left behind."""
    found = list_checkpoints(folder)
    for path in [*found[: len(found) - keep], *folder.glob(".checkpoint-*")]:
        shutil.rmtree(path, ignore_errors=True)


class PhaseCheckpoints:
    """Writes the checkpoints of one phase, and restores one into its trainer.

    Args:
        folder: the run's output folder, which all processes see.
        moment: the run so far; its `best` and `average` are read when a checkpoint is made.
        resumed: the checkpoint that this phase goes on from, or None.
    """

    def __init__(self, folder: Path, moment: Moment, resumed: Checkpoint | None = None) -> None:
        self.folder, self.moment, self.resumed = folder, moment, resumed
        self.newest: Path | None = resumed.folder if resumed is not None else None

    def save(self, trainer: FreezeTrainer) -> None:
        """Write ``checkpoint-STEP`` beside the earlier ones and delete those above ``--save_total_limit``.

        Every process writes its random state; the first writes all else. The folder gets its name when it is whole.

        Raises:
            OutputError: it cannot be written; earlier checkpoints are as they were.
        """
        args = trainer.args
        name = f"checkpoint-{self.moment.steps + trainer.state.global_step}"
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
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
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
        state = json.loads((self.resumed.folder / f"rank-{trainer.args.process_index}.json").read_text())
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
        state = json.loads((self.resumed.folder / f"rank-{trainer.args.process_index}.json").read_text())
        trainer._tr_loss.fill_(state["loss"])
        trainer._total_loss_scalar, trainer._globalstep_last_logged = state["total_loss"], state["logged"]
        trainer._initial_global_step = 0

    def _tensors(self, trainer: FreezeTrainer) -> Iterator[tuple[str, Tensor]]:
        moment, state = self.moment, trainer.classifier.state_dict()
        groups = {
            "model": {name: state[name] for name in moment.changed},
            "best": moment.best.tensors if moment.best is not None else {},
            "average": moment.average.tensors if moment.average is not None else {},
            "optimizer": {key: value for key, value in _optimizer_entries(trainer) if isinstance(value, Tensor)},
        }
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                yield f"{group}/{name}", tensor.detach().cpu().contiguous().clone()

    def _record(self, trainer: FreezeTrainer) -> dict[str, Any]:
        moment, best = self.moment, self.moment.best
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
            "identity": moment.identity,
            "phase": moment.phase,
            "done": moment.done,
            "lr_scales": moment.lr_scales,
            "learning_rate": moment.learning_rate,
            "best": [best.score, best.epoch, best.stale] if best is not None else None,
            "optimizer": {"groups": rates, "values": values},
            "scheduler": trainer.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }


def _open(folder: Path) -> Checkpoint:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ArgumentError(f"{folder} was written by another version of hfft (format {record['format']})")
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "average": {}, "optimizer": {}}
        for key, tensor in load_file(folder / TENSORS).items():
            group, _, name = key.partition("/")
            groups[group][name] = tensor
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise OutputError(
            f"{folder} is damaged ({type(error).__name__}: {' '.join(str(error).split())}); delete it and run again"
        ) from error
    return Checkpoint(folder, record, groups)


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
    from dataclasses import asdict

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
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if target.exists():
        aside = target.with_name(f".{target.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(target, aside)
    os.replace(partial, target)


def _barrier(world_size: int) -> None:
    if world_size > 1:
        torch.distributed.barrier()
