"""A run as a checkpoint knows it: what makes it the same run, how far it has come, and back again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.baselines import Baselines
from hfft.images import ImageSet
from hfft.phase_result import PhaseResult
from hfft.pixels import Pixels
from hfft.plan import Phase
from hfft.resume import Checkpoint, Moment
from hfft.trainer import FreezeTrainer

if TYPE_CHECKING:
    from hfft.job import Run

_DIGITS = 12  # of a digest, to be read by people

MAY_CHANGE = frozenset(
    {
        # Where things are. What is there counts: weights, configuration, plan, images and labels have entries below.
        *("model_name_or_path", "model_revision", "token", "trust_remote_code", "allow_pickle", "plugin", "anatomy"),
        *("dataset_name", "dataset_config_name", "streaming", "train_dir", "validation_dir", "test_dir"),
        *("image_column_name", "label_column_name", "on_bad_image", "cache_dir", "cache_max_gb", "output_dir"),
        # What is written, shown and published.
        *("overwrite_output_dir", "resume_from_checkpoint", "figures", "disable_tqdm", "report_to", "run_name"),
        *("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
        *("log_level", "log_level_replica", "include_num_input_tokens_seen", "skip_memory_metrics"),
        *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node"),
        *("enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"),
        *("hub_always_push", "hub_revision"),
        # How batches are fetched, and the processes' own numbers.
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
        *("dataloader_multiprocessing_context", "ddp_timeout", "local_rank"),
    }
)
"""Options that two runs need not share; every other one, also of later versions of transformers, they must."""
LIBRARIES = ("torch", "torchvision", "transformers", "timm", "accelerate", "pillow")
"""Whose versions may change a run's bits."""


def identity_of(run: Run) -> dict[str, Any]:
    """Return, by name, everything that two runs must share for one to go on where the other stopped.

    That is every option but those in `MAY_CHANGE`, and what they stand for: weights, images, labels, versions.
    """
    settings, sets = run.settings, run.sets
    training: Any = settings.training
    given = (asdict(settings.model), asdict(settings.data), asdict(settings.policy), asdict(settings.cache))
    options: dict[str, Any] = {name: value for each in (*given, training.to_dict()) for name, value in each.items()}
    identity = {
        **{name: value for name, value in options.items() if name not in MAY_CHANGE},
        "model": run.pretrained.sha256,
        "model configuration": _digest(_configuration(run.model.config.to_dict())),
        "plan": _digest([_plain_phase(phase) for phase in run.plan.phases]),
        "labels": list(sets.labels),
        "training images": _images(sets.train),
        "validation images": _images(sets.validation),
        "test images": _images(sets.test) if sets.test is not None else None,
        "preprocessing": Pixels(run.processor, settings.data.augment, training.seed).fingerprint()[:_DIGITS],
        "processes": training.world_size,
        "device": training.device.type,
        **{f"version of {name}": version(name) for name in LIBRARIES},
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return plain


def moment_of(run: Run, trainer: FreezeTrainer, identity: dict[str, Any]) -> Moment:
    """Return the moment at which a phase begins; its weights are read when a checkpoint is made."""
    return Moment(
        identity,
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


def _images(images: ImageSet) -> str:
    labels = hashlib.sha256(np.asarray(images.labels, np.int64).tobytes()).hexdigest()[:_DIGITS]
    return f"{len(images)} images {images.fingerprint()[:_DIGITS]} with labels {labels}"


def _configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's configuration without names, versions, and what a forward notes in it."""
    names = ("id2label", "label2id", "_name_or_path", "name_or_path", "transformers_version", "problem_type")
    return {name: value for name, value in config.items() if name not in names}


def _plain_phase(phase: Phase) -> dict[str, Any]:
    """Return a phase with its sets in order."""
    plain = asdict(phase).items()
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in plain}


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
