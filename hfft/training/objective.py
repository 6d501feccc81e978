"""The training loss: the task's, on the logits, with label smoothing, class weights and MixUp where asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hfft.tasks.contract import Task
from hfft.tasks.single_label import SINGLE_LABEL


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Args:
        classes: how many labels there are.
        label_smoothing: share of the target that is spread evenly over all labels (Szegedy et al., 2016).
        class_weights: factor on each label's loss, shape (classes,); None for 1.
        mixup: alpha of the Beta distribution that mixing shares are drawn from; 0 for none.
        task: what the labels mean.
    """

    classes: int
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    mixup: float = 0.0
    task: Task = SINGLE_LABEL

    def mix(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mix each image of a batch with another one, what the model reads and the labels alike.

        Pixels are mixed as in MixUp (Zhang et al., "mixup: beyond empirical risk minimization", 2018). Cached
        activations are mixed at the boundary, which is manifold mixup at that layer (Verma et al., "Manifold
        mixup: better representations by interpolating hidden states", 2019). Whole numbers are left alone.

        Args:
            batch: inputs or activations, first dimension the batch, and ``labels`` as the task encodes them.

        Returns:
            The same, with ``labels`` of shape (batch, classes): shares of labels, or mixed numbers.
        """
        if not self.mixup:
            return batch
        labels = self.task.shares(batch["labels"], self.classes)
        share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
        partner = torch.randperm(len(labels)).to(labels.device)
        mixed = {
            name: torch.lerp(tensor[partner], tensor, share) if tensor.is_floating_point() else tensor
            for name, tensor in batch.items()
        }
        return {**mixed, "labels": torch.lerp(labels[partner], labels, share)}

    def loss(self, logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
        """Return the summed loss divided by a count.

        Args:
            logits: (batch, classes).
            labels: as the task encodes them, or (batch, classes) of shares.
            count: of labels in the whole step, over all processes; by default this batch's.
        """
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        total = self.task.loss(logits, labels, weights, self.label_smoothing)
        return total / (self.task.items(labels) if count is None else count)
