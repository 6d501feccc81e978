"""One label of several for each image: softmax, cross-entropy, accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfft.metrics import (
    PairedDifference,
    class_confidence,
    confusion,
    counted,
    paired_difference,
    per_class,
    probabilities,
    wilson_interval,
)
from hfft.tasks.contract import Answer, Judgement, Label, Targets, Task, Told, best_scores
from hfft.tasks.scored import Right
from hfft.trust.calibration import fit_temperature, set_temperature
from hfft.trust.selective import selective

if TYPE_CHECKING:
    from torch import Tensor

PROBE_STEPS = 200
"""Steps of L-BFGS that a logistic probe takes at most."""


@dataclass(frozen=True)
class SingleLabel(Task):
    """One label of several for each image.

    Args:
        temperature: that logits are divided by before they become probabilities; None where nothing was calibrated.
    """

    name = "single_label"
    problem_type = "single_label_classification"
    metric = "accuracy"
    metrics = ("accuracy", "f1_macro", "top5_accuracy", "loss", "ece")
    plots = ("confusion_matrix.png", "reliability.png", "mistakes.png")
    chooses = True
    least = 2
    made = "Softmax turns the scores into probabilities."
    gives = "one probability for each class"
    mistakes = "Most confident mistakes: true → predicted"

    temperature: float | None = None

    @property
    def divisor(self) -> float:
        """What logits are divided by; 1 where nothing was calibrated."""
        return 1.0 if self.temperature is None else self.temperature

    def parts(self, label: Label) -> tuple[str, ...]:
        """Return the one class."""
        return (label,)

    def encode(self, labels: Sequence[Label], classes: Sequence[str]) -> Targets:
        """Return label numbers, shape (images,), int64."""
        index = {name: number for number, name in enumerate(classes)}
        return np.array([index[label] for label in labels], dtype=np.int64)

    def decode(self, targets: Targets, classes: Sequence[str]) -> list[Label]:
        """Return the class of each image."""
        return [classes[number] for number in targets]

    def strata(self, targets: Targets) -> NDArray[np.int64]:
        """Every class is a stratum."""
        return targets

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """Return the summed cross-entropy, in nats; targets may be shares of shape (batch, classes)."""
        import torch.nn.functional as F  # noqa: N812  (its usual name)

        return F.cross_entropy(logits.float(), targets, weights, reduction="sum", label_smoothing=smoothing)

    def items(self, targets: Tensor) -> int:
        """Images."""
        return len(targets)

    def shares(self, targets: Tensor, classes: int) -> Tensor:
        """Return shape (batch, classes), 1 for the class of each image."""
        import torch.nn.functional as F  # noqa: N812  (its usual name)

        return F.one_hot(targets, classes).float()

    def class_weights(self, targets: Targets, classes: int) -> Tensor:
        """Return a factor on each class's loss under which every class counts alike, shape (classes,).

        They are images / (classes * images of the class), and average to 1 over the images. A class without images
        gets 0.
        """
        import torch

        counts = torch.bincount(torch.as_tensor(targets), minlength=classes).float()
        return torch.where(counts > 0, len(targets) / (classes * counts.clamp_min(1)), 0.0)

    def check_options(self, smoothing: float) -> None:
        """All of them have a meaning."""

    def scores(self, logits: NDArray[Any]) -> NDArray[np.float32]:
        """Return calibrated probabilities that sum to 1 for each image."""
        return probabilities(logits, self.divisor)

    def tensor_scores(self, logits: Tensor) -> Tensor:
        """Return the same within a model."""
        return (logits / self.divisor).softmax(dim=1)

    def same(self, scores: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
        """The most likely label decides."""
        return np.asarray(scores.argmax(1) == others.argmax(1))

    def answer(self, scores: NDArray[Any], classes: Sequence[str], most: int) -> Answer:
        """Name the most probable label, and those behind it."""
        top = best_scores(classes, scores, most)
        return Answer(top[0].label, top[0].probability, top)

    def table(
        self, targets: Targets, scores: NDArray[Any], classes: Sequence[str]
    ) -> tuple[list[str], list[list[str]]]:
        """Return the true label, the predicted one and its probability."""
        chosen, sure = scores.argmax(1), scores.max(1)
        rows = [
            [classes[true], classes[said], f"{float(share):.6f}"]
            for true, said, share in zip(targets, chosen, sure, strict=True)
        ]
        return ["label", "prediction", "probability"], rows

    def told_of(self, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> list[Told]:
        """A wrong label is as far off as it is probable."""
        found = [(row["label"], row["prediction"], float(row["probability"])) for row in rows]
        return [Told(*each, each[2] if each[0] != each[1] else 0.0) for each in found]

    def exported(self) -> dict[str, str]:
        """Name the softmax."""
        return {
            "output": "logits of shape (batch, labels), before the softmax",
            "probabilities": f"softmax of the logits over {self.divisor:g}, of shape (batch, labels)",
        }

    def epoch_metrics(self, logits: NDArray[Any], targets: Targets) -> dict[str, float]:
        """Return `hfft.evaluation.classification_metrics`."""
        from hfft.evaluation import classification_metrics

        return classification_metrics(logits, targets)

    def judge(self, logits: NDArray[Any], targets: Targets, classes: Sequence[str], most: int = 5) -> Judgement:
        """Return accuracy with Wilson's interval, macro-F1, top-k accuracy, loss and calibration error."""
        from hfft.evaluation import split_metrics

        shares = self.scores(logits)
        matrix = confusion(logits, targets, len(classes))
        return Judgement(
            split_metrics(logits, targets, most, self.divisor),
            per_class(matrix, list(classes), class_confidence(shares)),
            selective(shares.max(axis=1), logits.argmax(axis=1) == targets),
        )

    def calibrated(self, logits: NDArray[Any], targets: Targets) -> SingleLabel:
        """Fit the temperature."""
        return SingleLabel(fit_temperature(logits, targets))

    def write(self, config: Any) -> None:
        """Note the temperature."""
        super().write(config)
        set_temperature(config, self.temperature)

    def constant(self, targets: Targets, count: int) -> NDArray[Any]:
        """Name the commonest class."""
        return np.full(count, int(np.bincount(targets).argmax()), np.int64)

    def probe(self, strength: float) -> Any:
        """Return a logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=strength, max_iter=PROBE_STEPS)

    def probed(self, estimator: Any, features: NDArray[Any]) -> NDArray[Any]:
        """Return label numbers."""
        return np.asarray(estimator.predict(features))

    def answers(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return label numbers."""
        return np.asarray(logits.argmax(axis=1))

    def compared(self, answers: NDArray[Any], targets: Targets) -> dict[str, float]:
        """Return accuracy and macro-F1."""
        from hfft.evaluation import Accuracy, MacroF1

        return {
            **Accuracy().compute(predictions=answers, references=targets),
            **MacroF1().compute(predictions=answers, references=targets),
        }

    def counted(self, score: float, images: int) -> str:
        """Say an accuracy, with its count on few images."""
        return counted(score, images)

    def reached(self, score: float, images: int, interval: tuple[float, float] | None = None) -> str:
        """Say an accuracy as a count, with the 95 % interval that so many images leave."""
        if not math.isfinite(score) or not images:
            return "no accuracy"
        correct = round(score * images)
        low, high = wilson_interval(correct, images)
        return f"{correct:,} of {images:,} right (95 % interval {low:.0%} to {high:.0%})"

    def scored(self, answers: NDArray[Any], targets: Targets) -> Right:
        """Return the accuracy."""
        return Right(answers == targets)

    def difference(self, answers: NDArray[Any], others: NDArray[Any], targets: Targets) -> PairedDifference:
        """Compare accuracies."""
        return paired_difference(answers == targets, others == targets)

    def described(self, classes: Sequence[str]) -> str:
        """Name a classifier."""
        return f"An image classifier with {len(classes):,} labels"

    def limit(self, classes: Sequence[str]) -> str:
        """It always answers."""
        return f"It knows {len(classes):,} labels and gives one of them to every image, of whatever it may be"

    def reading(self) -> str:
        """Return lines that print the most likely label."""
        logits = "model(**inputs).logits" if self.divisor == 1 else f"(model(**inputs).logits / {self.divisor:g})"
        return f"""with torch.no_grad():
    probabilities = {logits}.softmax(-1)[0]
print(model.config.id2label[probabilities.argmax().item()], probabilities.max().item())"""


SINGLE_LABEL = SingleLabel()
"""As a data set has it: nothing is calibrated yet."""
