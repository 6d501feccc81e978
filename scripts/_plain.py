"""What the benchmarks compare hfft with: a plain ``transformers.Trainer`` with the same parameters frozen."""

from __future__ import annotations

import numpy as np
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hfft.data.preprocessing import PixelDataset, Pixels, collate
from hfft.planning.freezing import freeze
from hfft.training.setup import Setup


def plain_trainer(setup: Setup, learning_rate: float | None = None, held: bool = False) -> Trainer:
    """Return a Trainer of a run's model and images, frozen as the run's first phase is, evaluating every epoch.

    The frozen parameters need no gradient, and that is all: batch norms and dropout go on as the Trainer has them.

    Args:
        setup: set up; its model is the one that is trained.
        learning_rate: where not the run's.
        held: freeze as hfft does instead: frozen modules stay in eval mode as well.
    """
    if held:
        freeze(setup.model, setup.plan.phases[0])
    else:
        for name, parameter in setup.model.named_parameters():
            parameter.requires_grad_(name in setup.plan.phases[0].trainable)
    ours, pixels = setup.settings.training, Pixels(setup.processor)
    arguments = TrainingArguments(
        output_dir=ours.output_dir,
        num_train_epochs=ours.num_train_epochs,
        per_device_train_batch_size=ours.per_device_train_batch_size,
        per_device_eval_batch_size=ours.per_device_eval_batch_size,
        learning_rate=ours.learning_rate if learning_rate is None else learning_rate,
        bf16=bool(ours.bf16),
        seed=ours.seed,
        eval_strategy="epoch",
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    trainer = Trainer(
        model=setup.model,
        args=arguments,
        data_collator=collate,
        train_dataset=PixelDataset(setup.sets.train, pixels),
        eval_dataset=PixelDataset(setup.sets.validation, pixels),
        compute_metrics=_accuracy,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"accuracy": float((logits.argmax(1) == labels).mean())}
