"""Checkpoints of an interrupted run: finding one, holding it against the run, going on from it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hfft.data.images import ImageSet
from hfft.data.preprocessing import Pixels
from hfft.errors import ArgumentError, OutputError, one_line
from hfft.packages import version
from hfft.planning.plan import Phase
from hfft.training.callbacks import Average, Best
from hfft.training.progress import Baselines, PhaseResult, Progress
from hfft.training.setup import Setup
from hfft.training.trainer import FreezeTrainer
from hfft.trust.epoch_answers import EpochAnswers

FORMAT = 2
RECORD, TENSORS, STATE = "checkpoint.json", "tensors.safetensors", "trainer_state.json"
_GROUPS = ("model", "best", "average", "optimizer", "answers", "features")
_HALF = re.compile(r"\.checkpoint-\d+\.(partial|old)")


@dataclass
class ResumePoint:
    """Where a run stands, beside its weights and optimizer: what a checkpoint needs to go on from here.

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
        answers: to the validation images so far.
        features: what the pretrained head read of the images that are drawn, by split.
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
    answers: EpochAnswers = field(default_factory=EpochAnswers)
    features: dict[str, NDArray[np.float16]] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, opened.

    Args:
        folder: where it lies.
        record: what ``checkpoint.json`` holds.
        tensors: by group (model, best, average, optimizer, answers, features) and name.
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
        if names := differences(before, identity):
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
    _put_back(folder)
    found = list_checkpoints(folder)
    return _open(found[-1]) if found else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of hfft in a folder, oldest first; others have another record or none."""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    whole = {path: int(match[1]) for path, match in steps.items() if match and _is_own(path)}
    return sorted(whole, key=lambda path: whole[path])


def _put_back(folder: Path) -> None:
    """Give a checkpoint its name back that a kill caught while another one of that name was about to replace it."""
    for aside in folder.glob(".checkpoint-*.old"):
        place = folder / aside.name.removeprefix(".").removesuffix(".old")
        if _is_own(aside) and not place.exists():
            with suppress(OSError):  # another process was faster
                aside.rename(place)


def remove_checkpoints(folder: Path, keep: int = 0) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted one left behind."""
    found = list_checkpoints(folder)
    halves = [path for path in folder.glob(".checkpoint-*") if _HALF.fullmatch(path.name)]
    for path in [*found[: max(len(found) - keep, 0)], *halves]:
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
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in _GROUPS}
        for key, tensor in load_file(folder / TENSORS).items():
            group, _, name = key.partition("/")
            groups[group][name] = tensor
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise OutputError(
            f"{folder} is damaged ({type(error).__name__}: {one_line(error)}); delete it and run again"
        ) from error
    return Checkpoint(folder, record, groups)


_DIGITS = 12  # of a digest, to be read by people

MAY_CHANGE = frozenset(
    {
        # Where things are. What is there counts: weights, configuration, plan, images and labels have entries below.
        *("model_name_or_path", "model_revision", "token", "trust_remote_code", "allow_pickle", "plugin", "anatomy"),
        *("config_name", "image_processor_name", "ignore_mismatched_sizes"),
        *("dataset_name", "dataset_config_name", "streaming", "train_dir", "validation_dir", "test_dir"),
        *("image_column_name", "label_column_name", "label_separator", "label_columns", "label_tree", "tree_threshold"),
        *("task", "on_bad_image"),
        *("cache_dir", "cache_max_gb", "output_dir"),
        # What is written, shown and published.
        *("overwrite_output_dir", "resume_from_checkpoint", "figures", "disable_tqdm", "report_to", "run_name"),
        "calibration_folds",
        *("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
        *("log_level", "log_level_replica", "include_num_input_tokens_seen", "skip_memory_metrics"),
        *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node"),
        *("enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"),
        *("hub_always_push", "hub_revision"),
        *("do_train", "do_eval", "do_predict"),
        # How batches are fetched, and the processes' own numbers.
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
        *("dataloader_multiprocessing_context", "ddp_timeout", "local_rank"),
    }
)
"""Options that two runs need not share; every other one, also of later versions of transformers, they must."""
LIBRARIES = ("torch", "torchvision", "transformers", "timm", "accelerate", "pillow")
"""Whose versions may change a run's bits."""


def identity_of(setup: Setup) -> dict[str, Any]:
    """Return, by name, everything that two runs must share for one to go on where the other stopped.

    That is every option but those in `MAY_CHANGE`, and what they stand for: weights, images, labels, versions.
    """
    settings, sets = setup.settings, setup.sets
    training: Any = settings.training
    given = (asdict(settings.model), asdict(settings.data), asdict(settings.policy), asdict(settings.cache))
    options: dict[str, Any] = {name: value for each in (*given, training.to_dict()) for name, value in each.items()}
    identity = {
        **{name: value for name, value in options.items() if name not in MAY_CHANGE},
        "model": setup.pretrained.sha256,
        "model configuration": _digest(_configuration(setup.model.config.to_dict())),
        "plan": _digest([_plain_phase(phase) for phase in setup.plan.phases]),
        "labels": list(sets.labels),
        "training images": _images(sets.train),
        "validation images": _images(sets.validation),
        "test images": _images(sets.test) if sets.test is not None else None,
        "preprocessing": Pixels(
            setup.processor, settings.data.augment, training.seed, settings.cache.exact
        ).fingerprint()[:_DIGITS],
        "processes": training.world_size,
        "device": training.device.type,
        **{f"version of {name}": version(name) for name in LIBRARIES},
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return plain


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of what two identities do not share."""
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def resume_point(progress: Progress, trainer: FreezeTrainer) -> ResumePoint:
    """Return the moment at which a phase begins; its weights are read when a checkpoint is made."""
    return ResumePoint(
        progress.identity,
        phase=len(progress.phases),
        done={
            "phases": [asdict(each) for each in progress.phases],
            "log": progress.log,
            "baselines": _plain(progress.baselines),
        },
        steps=progress.steps,
        changed=progress.changed,
        best=progress.best,
        average=trainer.average,
        lr_scales=trainer.phase.lr_scales,
        learning_rate=trainer.args.learning_rate,
        answers=progress.answers,
        features=progress.baselines.features,
    )


def restore_progress(progress: Progress, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Bring a new progress to where the checkpoint's phase began, and the model to the checkpoint's weights."""
    done = checkpoint.record["done"]
    progress.phases = [PhaseResult.from_dict(each) for each in done["phases"]]
    progress.log = done["log"]
    predictions = {
        name: {split: np.asarray(values) for split, values in splits.items()}
        for name, splits in done["baselines"]["predictions"].items()
    }
    features = {split: values.numpy() for split, values in checkpoint.tensors["features"].items()}
    progress.baselines = Baselines(predictions, done["baselines"]["seconds"], progress.baselines.task, features)
    progress.changed = frozenset(checkpoint.tensors["model"])
    checkpoint.restore_weights(model)
    answers = checkpoint.tensors["answers"]
    if answers:
        progress.answers.epochs = answers["epochs"].tolist()
        progress.answers.logits = list(answers["logits"].numpy())
    else:
        progress.answers.drop()


def _plain(baselines: Baselines) -> dict[str, Any]:
    return {
        "predictions": {
            name: {split: values.tolist() for split, values in splits.items()}
            for name, splits in baselines.predictions.items()
        },
        "seconds": baselines.seconds,
    }


def _images(images: ImageSet) -> str:
    labels = hashlib.sha256(np.ascontiguousarray(images.labels).tobytes()).hexdigest()[:_DIGITS]
    return f"{len(images)} images {images.fingerprint()[:_DIGITS]} with labels {labels}"


def _configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's configuration without names, versions, and what a forward notes in it."""
    names = ("id2label", "label2id", "_name_or_path", "name_or_path", "transformers_version", "problem_type")
    return {name: value for name, value in config.items() if name not in names}


def _plain_phase(phase: Phase) -> dict[str, Any]:
    """Return a phase with its sets in order, and without what few policies have."""
    plain = [(name, value) for name, value in asdict(phase).items() if name != "begins" or value]
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in plain}


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
