"""Learning rates from gradients: how far each tensor wants to move, measured before a phase begins."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from hfft.pixels import collate
from hfft.recording import logits_of
from hfft.trainer import FreezeTrainer

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
    model.eval()
    for _ in range(BATCHES):
        chosen = torch.randperm(len(dataset), generator=generator)[:size]
        for rows in chosen.split(part):  # as many at once as a process has memory for
            items = collate([dataset[row] for row in rows.tolist()])
            batch = {name: value.to(trainer.args.device) for name, value in items.items()}
            with trainer.accelerator.autocast(), trainer.suffix.inputs(model, batch) as inputs:
                labels = inputs.pop("labels")
                trainer.objective.loss(logits_of(model(**inputs)), labels, size).backward()
        for name, tensor in tensors.items():
            sums[name] += _ratio(tensor)
        model.zero_grad(set_to_none=True)
    largest = max((value for value in sums.values() if value != float("inf")), default=0.0)
    return {name: min(1.0, value / largest) if largest else 1.0 for name, value in sums.items()}


def _ratio(tensor: Tensor) -> float:
    if tensor.grad is None or not tensor.grad.any():
        return 0.0
    norm = float(tensor.detach().float().norm())
    return float(tensor.grad.float().norm()) / norm if norm else float("inf")
