"""Checkpoints of an interrupted run: finding one, holding it against the run, going on from it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hfft.data.preprocessing import Pixels
from hfft.errors import ArgumentError, OutputError, one_line
from hfft.training.callbacks import Average, Best
from hfft.training.run import Baselines, PhaseResult
from hfft.training.trainer import FreezeTrainer

if TYPE_CHECKING:
    from hfft.training.run import Run


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
    """Return the whole checkpoints in a folder, oldest first."""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    whole = {path: int(match[1]) for path, match in steps.items() if match and (path / RECORD).is_file()}
    return sorted(whole, key=lambda path: whole[path])


def remove_checkpoints(folder: Path, keep: int = 0) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted one left behind."""
    found = list_checkpoints(folder)
    for path in [*found[: len(found) - keep], *folder.glob(".checkpoint-*")]:
        shutil.rmtree(path, ignore_errors=True)


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
            f"{folder} is damaged ({type(error).__name__}: {one_line(error)}); delete it and run again"
        ) from error
    return Checkpoint(folder, record, groups)


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
        "preprocessing": Pixels(
            run.processor, settings.data.augment, training.seed, settings.cache.exact
        ).fingerprint(),
        "views": settings.data.views,
        "head_lr_scale": settings.policy.head_lr_scale,
        "layer_decay": settings.policy.layer_decay,
        "cache_dtype": settings.cache.cache_dtype,
        "memory_format": settings.cache.memory_format,
        "class_token_shortcut": settings.cache.class_token_shortcut,
        "processes": training.world_size,
        **{name: getattr(training, name) for name in names},
    }


def moment_of(run: Run, trainer: FreezeTrainer) -> Moment:
    """Return the moment at which a phase begins; its weights are read when a checkpoint is made."""
    return Moment(
        identity_of(run),
        phase=len(run.phases),
        done={"phases": [asdict(each) for each in run.phases], "log": run.log, "baselines": _plain(run.baselines)},
        steps=run.steps,
        changed=run.changed,
        best=run.best,
        average=trainer.average,
        lr_scales=trainer.phase.lr_scales,
        learning_rate=trainer.args.learning_rate,
    )


def restore_run(run: Run, checkpoint: Checkpoint) -> None:
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
