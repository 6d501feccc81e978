"""Any number of labels for each image: sigmoid, binary cross-entropy, mean average precision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfft.metrics import WILSON, ClassRow, SplitMetrics, wilson_interval
from hfft.tasks.contract import (
    NO_LABEL,
    THRESHOLDS,
    Answer,
    Judgement,
    Label,
    Marked,
    Score,
    Targets,
    Task,
    Told,
    best_scores,
    check_pairs,
    listed,
)
from hfft.tasks.scored import Resampled, weighted_map

if TYPE_CHECKING:
    from torch import Tensor

_STEPS = 200  # of L-BFGS at most, for each label of the probe
_DIGITS = 6
"""Of a threshold, where fewer do not move it past a score."""


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of labels for each image, none among them.

    Args:
        thresholds: probability from which on each label is given; empty for a half each.
    """

    name = "multi_label"
    problem_type = "multi_label_classification"
    metric = "map"
    metrics = ("map", "f1_macro", "f1_micro", "subset_accuracy", "loss")
    beside = ("f1_macro", "loss")
    tags = ("multi-label-classification",)
    missing = "they are compared where an image has one label, and here it may have several"

    shown = 20
    made = "A sigmoid turns each score into a probability; a label is given where that reaches its threshold, the mark."
    gives = "one probability for each class, on its own"
    mistakes = "Images with most labels wrong: true → predicted"

    thresholds: tuple[float, ...] = ()

    def encode(self, labels: Sequence[Label], classes: Sequence[str]) -> Targets:
        """Return 1 where an image has a label and 0 elsewhere, shape (images, classes), float32."""
        index = {name: number for number, name in enumerate(classes)}
        targets = np.zeros((len(labels), len(classes)), np.float32)
        for row, label in enumerate(labels):
            targets[row, [index[part] for part in label]] = 1
        return targets

    def decode(self, targets: Targets, classes: Sequence[str]) -> list[Label]:
        """Return the labels of each image."""
        return _named(targets > 0, classes)

    def strata(self, targets: Targets) -> NDArray[np.int64]:
        """Each image counts for its rarest label; those without any are a stratum of their own."""
        counts = np.where(targets > 0, targets.sum(axis=0), np.inf)
        return np.asarray(np.where(targets.any(axis=1), counts.argmin(axis=1), targets.shape[1]), np.int64)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """Return the summed binary cross-entropy, in nats; weights are factors on the images that have a label."""
        import torch.nn.functional as F  # noqa: N812  (its usual name)

        return F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weights, reduction="sum")

    def class_weights(self, targets: Targets, classes: int) -> Tensor:
        """Return a factor on the images with each label under which they weigh as much as those without, (classes,)."""
        import torch

        having = torch.as_tensor(targets).sum(dim=0)
        return torch.where(having > 0, (len(targets) - having) / having.clamp_min(1), 1.0)

    def scores(self, logits: NDArray[Any]) -> NDArray[np.float32]:
        """Return the probability of each label, on its own."""
        from scipy.special import expit

        return np.asarray(expit(np.asarray(logits, np.float64)), np.float32)

    def tensor_scores(self, logits: Tensor) -> Tensor:
        """Return the same within a model."""
        return logits.sigmoid()

    def same(self, scores: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
        """All labels count."""
        return np.asarray((self.given(scores) == self.given(others)).all(axis=1))

    def given(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which labels reach their thresholds, of the same shape."""
        return np.asarray(scores >= self._at_least(scores.shape[-1]))

    def answer(self, scores: NDArray[Any], classes: Sequence[str], most: int) -> Answer:
        """Name the labels that reach their thresholds, and the most probable ones."""
        top = best_scores(classes, scores, most)
        (labels,) = _named(self.given(scores)[None], classes)
        return Answer(top[0].label, top[0].probability, top, labels)

    def table(
        self, targets: Targets, scores: NDArray[Any], classes: Sequence[str]
    ) -> tuple[list[str], list[list[str]]]:
        """Return the true labels and the predicted ones as JSON lists, and each label's probability."""
        truth, said = self.decode(targets, classes), _named(self.given(scores), classes)
        rows = [
            [listed(true), listed(labels), *(f"{float(share):.6f}" for share in shares)]
            for true, labels, shares in zip(truth, said, scores, strict=True)
        ]
        return ["labels", "prediction", *(f"probability of {name}" for name in classes)], rows

    def told_of(self, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> list[Told]:
        """An answer is as far off as it has labels too many or too few."""
        found = [(json.loads(row["labels"]), json.loads(row["prediction"])) for row in rows]
        return [
            Told(_in_words(true), _in_words(said), math.nan, float(len(set(true) ^ set(said)))) for true, said in found
        ]

    def bars(self, answer: Answer, classes: Sequence[str]) -> tuple[Score, ...]:
        """Mark each label's threshold."""
        least = dict(zip(classes, self._at_least(len(classes)).tolist(), strict=True))
        return tuple(Marked(score.label, score.probability, least[score.label]) for score in answer.top)

    def heads(self, classes: Sequence[str], most: int) -> list[str]:
        """Put the labels that are given before the most likely ones."""
        return ["labels", *super().heads(classes, most)]

    def cells(self, answer: Answer) -> list[str]:
        """Put the labels that are given, as a JSON list, before the most likely ones."""
        return [listed(answer.labels or ()), *super().cells(answer)]

    def said(self, answer: Answer) -> str:
        """Say the labels that are given before the most likely ones."""
        return f"{answer.headline}  ({super().said(answer)})"

    def exported(self) -> dict[str, str]:
        """Name the sigmoid, and the thresholds as JSON."""
        return {
            "output": "logits of shape (batch, labels), before the sigmoid",
            "probabilities": "sigmoid of the logits, of shape (batch, labels)",
            "thresholds": json.dumps(list(self.thresholds) or 0.5),
        }

    def epoch_metrics(self, logits: NDArray[Any], targets: Targets) -> dict[str, float]:
        """Return mean average precision, macro and micro F1, subset accuracy, and the loss."""
        check_pairs(logits, targets)
        scores = self.scores(logits)
        return {**self._metrics(scores, targets), "loss": _mean_loss(logits, targets)}

    def judge(self, logits: NDArray[Any], targets: Targets, classes: Sequence[str], most: int = 5) -> Judgement:
        """Return the same with intervals of mean average precision and subset accuracy, and a row for each label."""
        values = self.epoch_metrics(logits, targets)
        scores = self.scores(logits)
        given = self.given(scores)
        right = int((given == (targets > 0)).all(axis=1).sum())
        ranked = self.scored(scores, targets)
        intervals = {self.metric: ranked.interval, "subset_accuracy": wilson_interval(right, len(targets))}
        found = SplitMetrics(len(targets), values, intervals, method=WILSON, methods={self.metric: ranked.method})
        return Judgement(found, _rows(given, targets > 0, scores, classes))

    def calibrated(self, logits: NDArray[Any], targets: Targets) -> MultiLabel:
        """Choose each label's threshold: that with the best F1."""
        scores = self.scores(logits)
        return MultiLabel(tuple(_threshold(*pair) for pair in zip(scores.T, targets.T > 0, strict=True)))

    def write(self, config: Any) -> None:
        """Note the thresholds."""
        super().write(config)
        if self.thresholds:
            setattr(config, THRESHOLDS, list(self.thresholds))

    def constant(self, targets: Targets, count: int) -> NDArray[Any]:
        """Give every image each label with the share of training images that have it."""
        return np.tile(targets.mean(axis=0), (count, 1))

    def probe(self, strength: float) -> Any:
        """Return a logistic regression for each label against all others."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        return OneVsRestClassifier(LogisticRegression(C=strength, max_iter=_STEPS))

    def probed(self, estimator: Any, features: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each label."""
        found = np.asarray(estimator.predict_proba(features))
        if estimator.multilabel_:
            return found
        # A single label is told as no and yes; one that all images have, or none of them, as that alone.
        return found[:, 1:] if len(estimator.classes_) > 1 else np.full((len(features), 1), 1.0 * estimator.classes_[0])

    def answers(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each label."""
        return self.scores(logits)

    def compared(self, answers: NDArray[Any], targets: Targets) -> dict[str, float]:
        """Return mean average precision and both F1 with a half for a threshold."""
        found = MultiLabel()._metrics(answers, targets)
        return {name: found[name] for name in ("map", "f1_macro", "f1_micro")}

    def scored(self, answers: NDArray[Any], targets: Targets) -> Resampled:
        """Return mean average precision."""
        return Resampled(self.metric, len(targets), weighted_map(answers, targets > 0), targets.shape[1])

    def described(self, classes: Sequence[str]) -> str:
        """Name a multi-label classifier."""
        return f"A multi-label image classifier with {len(classes):,} labels"

    def deciding(self) -> str:
        """Say what the thresholds are."""
        return (
            "An image is given each label whose probability reaches that label's threshold: the one with the best F1 "
            f"on the validation images, which is in `{THRESHOLDS}` in `config.json`. `hfft` applies them; the "
            "`pipeline` of `transformers` does not, and gives the same probabilities."
        )

    def limit(self, classes: Sequence[str]) -> str:
        """It knows nothing else."""
        return f"It knows {len(classes):,} labels and gives each image those whose probability reaches a threshold"

    def reading(self) -> str:
        """Return lines that print the labels."""
        each = list(self.thresholds) if self.thresholds else 0.5
        return f"""with torch.no_grad():
    probabilities = model(**inputs).logits.sigmoid()[0]
thresholds = torch.tensor({each})  # the best F1 of each label on the validation images
print([model.config.id2label[number] for number in (probabilities >= thresholds).nonzero()[:, 0].tolist()])"""

    def _at_least(self, classes: int) -> NDArray[np.float64]:
        return np.asarray(self.thresholds) if self.thresholds else np.full(classes, 0.5)

    def _metrics(self, scores: NDArray[Any], targets: Targets) -> dict[str, float]:
        from hfft.evaluation import multi_label_metrics

        return multi_label_metrics(scores, targets > 0, self.given(scores))


MULTI_LABEL = MultiLabel()
"""As a data set has it: no thresholds are chosen yet."""


def _in_words(labels: Sequence[str]) -> str:
    return ", ".join(labels) or NO_LABEL


def _named(given: NDArray[np.bool_], classes: Sequence[str]) -> list[Label]:
    return [tuple(classes[number] for number in np.flatnonzero(row).tolist()) for row in given]


def _mean_loss(logits: NDArray[Any], targets: Targets) -> float:
    """Return the mean binary cross-entropy over images and labels."""
    rows = np.asarray(logits, np.float64)
    return float((np.logaddexp(0, rows) - rows * targets).mean())


def _threshold(scores: NDArray[Any], having: NDArray[np.bool_]) -> float:
    """Return the threshold with the best F1, half-way to the next score below; a half where no image has the label."""
    from sklearn.metrics import precision_recall_curve

    if not having.any():
        return 0.5
    precision, recall, steps = precision_recall_curve(having, np.asarray(scores, np.float64))
    f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
    best = int(f1.argmax())
    below = steps[best - 1] if best else 0.0
    half = float(steps[best] + below) / 2
    rounded = (float(f"{half:.{digits}g}") for digits in range(_DIGITS, 17))
    return next((each for each in rounded if below < each <= steps[best]), half)


def _rows(
    given: NDArray[np.bool_], having: NDArray[np.bool_], scores: NDArray[Any], classes: Sequence[str]
) -> list[ClassRow]:
    """Return precision, recall, F1, support and confidence of each label."""
    hits, said, support = ((given & having).sum(axis=0), given.sum(axis=0), having.sum(axis=0))
    sure = np.where(given, scores, 0.0).sum(axis=0)
    return [
        ClassRow(
            name,
            float(hits[i] / max(said[i], 1)),
            float(hits[i] / max(support[i], 1)),
            float(2 * hits[i] / max(said[i] + support[i], 1)),
            int(support[i]),
            float(sure[i] / said[i]) if said[i] else None,
        )
        for i, name in enumerate(classes)
    ]
