"""A run as a checkpoint knows it: what makes it the same run, how far it has come, and back again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.baselines import Baselines
from hfft.phase_result import PhaseResult
from hfft.pixels import Pixels
from hfft.resume import Checkpoint, Moment
from hfft.trainer import FreezeTrainer

if TYPE_CHECKING:
    from hfft.job import Run


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
        "preprocessing": Pixels(run.processor, settings.data.augment, training.seed).fingerprint(),
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
