"""The training loss: cross-entropy on the logits, with label smoothing, class weights and MixUp where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Args:
        classes: how many labels there are.
        label_smoothing: share of the target that is spread evenly over all labels (Szegedy et al., 2016).
        class_weights: factor on each label's loss, shape (classes,); None for 1.
        mixup: alpha of the Beta distribution that mixing shares are drawn from; 0 for none.
    """

    classes: int
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    mixup: float = 0.0

    def mix(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mix each image of a batch with another one, what the model reads and the labels alike.

        Pixels are mixed as in MixUp (Zhang et al., "mixup: beyond empirical risk minimization", 2018). Cached
        activations are mixed at the boundary, which is manifold mixup at that layer (Verma et al., "Manifold
        mixup: better representations by interpolating hidden states", 2019). Whole numbers are left alone.

        Args:
            batch: inputs or activations, first dimension the batch, and ``labels`` of shape (batch,).

        Returns:
            The same, with ``labels`` of shape (batch, classes) that add up to 1 for each image.
        """
        if not self.mixup:
            return batch
        labels = F.one_hot(batch["labels"], self.classes).float()
        share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
        partner = torch.randperm(len(labels)).to(labels.device)
        mixed = {
            name: torch.lerp(tensor[partner], tensor, share) if tensor.is_floating_point() else tensor
            for name, tensor in batch.items()
        }
        return {**mixed, "labels": torch.lerp(labels[partner], labels, share)}

    def loss(self, logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
        """Return the summed cross-entropy divided by a count.

        Args:
            logits: (batch, classes).
            labels: (batch,) of label numbers, or (batch, classes) of shares.
            count: of images in the whole step, over all processes; by default this batch's.
        """
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        total = F.cross_entropy(logits.float(), labels, weights, reduction="sum", label_smoothing=self.label_smoothing)
        return total / (len(labels) if count is None else count)


def balanced_weights(labels: Sequence[int], classes: int) -> Tensor:
    """Return weights under which every label counts alike: images / (labels * images of the label).

    They average to 1 over the images. A label without images gets 0.

    Args:
        labels: of the training images.
        classes: how many labels there are.

    Returns:
        Shape (classes,), float32.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp_min(1)), 0.0)
