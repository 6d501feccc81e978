"""Checkpoints to resume from: small, written whole or not at all, and exact to the last bit.

``checkpoint-STEP`` holds the tensors that training has changed so far, the optimizer's state by parameter name,
every source of random numbers, and how far the run has come. The frozen rest is the base model's, which is
found again by its hash. Tensors are in safetensors files and all else is JSON, so that nothing is unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hfft.callbacks import Average, Best
from hfft.errors import ArgumentError, OutputError

if TYPE_CHECKING:
    pass

FORMAT = 2
RECORD, TENSORS, STATE = "checkpoint.json", "tensors.safetensors", "trainer_state.json"
_HALF = re.compile(r"\.checkpoint-\d+\.(partial|old)")


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
            pairs = [f"{name}: {before.get(name)!r} there, {identity.get(name)!r} here" for name in names]
            raise ArgumentError(
                f"{self.folder} belongs to another run: {'; '.join(pairs)}. Give the flags of that run, or start "
                "anew with --overwrite_output_dir and without --resume_from_checkpoint"
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
        wish: true (or the text ``true``) for the newest in `folder`, a path, or None.
        folder: the run's output folder.

    Returns:
        None where none is wanted, and where a run was interrupted before its first one.

    Raises:
        ArgumentError: the path holds no checkpoint of hfft.
        OutputError: its files are damaged.
    """
    if not wish:
        return None
    if str(wish).lower() != "true":
        place = Path(str(wish))
        if not (place / RECORD).is_file():
            raise ArgumentError(
                f"--resume_from_checkpoint {wish} holds no {RECORD}; give a checkpoint-* folder of hfft"
            )
        return _open(place)
    found = list_checkpoints(folder)
    return _open(found[-1]) if found else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of hfft in a folder, oldest first; others have another record or none."""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    whole = {path: int(match[1]) for path, match in steps.items() if match and _is_own(path)}
    return sorted(whole, key=lambda path: whole[path])


def remove_checkpoints(folder: Path, keep: int = 0) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted one left behind."""
    found = list_checkpoints(folder)
    halves = [path for path in folder.glob(".checkpoint-*") if _HALF.fullmatch(path.name)]
    for path in [*found[: len(found) - keep], *halves]:
        shutil.rmtree(path, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    """Whether the record is hfft's; a damaged one counts, so that opening it says what is wrong."""
    if not (folder / RECORD).is_file():
        return False
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return (folder / TENSORS).exists()
    return isinstance(record, dict) and {"format", "identity", "phase"} <= record.keys()


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
