"""The training loss: the task's, on the logits, with label smoothing and class weights where asked for."""

from __future__ import annotations

from dataclasses import dataclass

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
        task: what the labels mean.
    """

    classes: int
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    task: Task = SINGLE_LABEL

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
