"""One number or several for each image: squared errors, RMSE, R2.

A head learns targets of mean 0 and deviation 1, whatever their unit, so that the learning rates of classifiers fit.
`affine` says how its outputs become the targets' own numbers; at the end of a training the head itself is scaled so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfft.errors import DataError
from hfft.metrics import SplitMetrics
from hfft.tasks.contract import Answer, Judgement, Label, Measured, Score, Targets, Task, Told, check_pairs, numbers
from hfft.tasks.scored import Resampled, weighted_r2

if TYPE_CHECKING:
    from torch import Tensor

_BINS = 10  # quantiles that a sample keeps the shares of
_CLOSE = 1e-3  # of a value: such values are the same for a reader
_IGNORED = -100.0  # transformers' Trainer does not count labels of this value


@dataclass(frozen=True)
class Regression(Task):
    """One number or several for each image.

    Args:
        offset: mean of each target over the training images, shape (targets,); empty for 0, as a finished model has it.
        scale: deviation of each target over them; empty for 1.
    """

    name = "regression"
    problem_type = "regression"
    ranges = True
    cuts = False
    metric = "r2"
    metrics = ("r2", "mae", "rmse", "loss")
    beside = ("mae", "rmse")
    plots = ("predicted_against_true.png",)
    output = "values"
    replies = "values"
    noun = ("target", "targets")
    tags = ("regression",)
    made = "The head's sums are the numbers themselves."
    gives = "one number for each target"
    mistakes = "Images with the largest errors: true → predicted"
    missing = "they are compared where an image has one label, and here it has a number"

    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def parts(self, label: Label) -> tuple[str, ...]:
        """There are no classes."""
        return ()

    def classes(self, labels: Sequence[Label], order: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the targets."""
        return tuple(order)

    def encode(self, labels: Sequence[Label], classes: Sequence[str]) -> Targets:
        """Return the numbers, shape (images, targets), float32."""
        targets = np.array(labels, np.float32).reshape(len(labels), len(classes))
        # The next number: its error is a ten-millionth.
        return np.where(targets == _IGNORED, np.nextafter(np.float32(_IGNORED), np.float32(0)), targets)

    def decode(self, targets: Targets, classes: Sequence[str]) -> list[Label]:
        """Return the numbers of each image."""
        return [tuple(row) for row in targets.tolist()]

    def strata(self, targets: Targets) -> NDArray[np.int64]:
        """Quantiles of the targets' mean, each in units of its deviation."""
        deviations = targets.std(axis=0)
        means = (targets / np.where(deviations > 0, deviations, 1)).mean(axis=1)
        ranks = means.argsort(kind="stable").argsort(kind="stable")
        bins = min(_BINS, max(len(targets) // 2, 1))
        return np.asarray(ranks * bins // max(len(targets), 1), np.int64)

    def fitted_to(self, targets: Targets) -> Regression:
        """Take the mean and the deviation of the training images' targets."""
        wide = targets.astype(np.float64)
        deviations = wide.std(axis=0)
        scale = np.where(deviations > 0, deviations, 1.0)
        return Regression(tuple(wide.mean(axis=0).tolist()), tuple(scale.tolist()))

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """Return the summed squared error in units of the deviations."""
        import torch.nn.functional as F  # noqa: N812  (its usual name)

        return F.mse_loss(logits.float(), self._standard(targets), reduction="sum")

    @property
    def affine(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Deviation and mean of each target; None for a finished model."""
        return (self.scale, self.offset) if self.scale else None

    @property
    def scaled(self) -> Regression:
        """Its outputs are the targets' own numbers."""
        return REGRESSION

    def scores(self, logits: NDArray[Any]) -> NDArray[np.float32]:
        """Return values in the targets' own units."""
        wide = np.asarray(logits, np.float64)
        return np.asarray(wide * self.scale + self.offset if self.scale else wide, np.float32)

    def tensor_scores(self, logits: Tensor) -> Tensor:
        """Return the same within a finished model, as a tensor of its own."""
        return logits.clone()

    def same(self, scores: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
        """Values are the same that differ by less than a thousandth of the largest."""
        return np.asarray(np.isclose(scores, others, rtol=0, atol=_CLOSE * float(np.abs(scores).max())).all(axis=1))

    def answer(self, scores: NDArray[Any], classes: Sequence[str], most: int) -> Answer:
        """Return a value for each target."""
        return Answer(values=dict(zip(classes, scores.tolist(), strict=True)))

    def table(
        self, targets: Targets, scores: NDArray[Any], classes: Sequence[str]
    ) -> tuple[list[str], list[list[str]]]:
        """Return the true and the predicted value of each target."""
        names = [title for name in classes for title in (name, f"predicted {name}")]
        pairs = np.stack([targets, scores], axis=2).reshape(len(targets), -1)
        return names, [[f"{value:.6g}" for value in row] for row in pairs]

    def told_of(self, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> list[Told]:
        """An answer is as far off as the target that is missed most, in units of the targets' deviations."""
        truth, said = (
            np.array([[float(row[f"{kind}{name}"]) for name in classes] for row in rows]).reshape(-1, len(classes))
            for kind in ("", "predicted ")
        )
        # Differences, so that what does not vary is 0 to the last bit.
        deviations = (truth - truth[:1]).std(axis=0) if len(rows) else np.ones(len(classes))
        wrong = np.abs(truth - said) / np.where(deviations > 0, deviations, 1)
        true, answered = (
            [numbers(dict(zip(classes, row, strict=True))) for row in table.tolist()] for table in (truth, said)
        )
        return [Told(a, b, math.nan, float(off.max())) for a, b, off in zip(true, answered, wrong, strict=True)]

    def bars(self, answer: Answer, classes: Sequence[str]) -> tuple[Score, ...]:
        """Return the numbers, which have no bars."""
        return tuple(Measured(name, math.nan, value) for name, value in answer.values.items())

    def heads(self, classes: Sequence[str], most: int) -> list[str]:
        """Return the targets."""
        return list(classes)

    def cells(self, answer: Answer) -> list[str]:
        """Return their values."""
        return [f"{value:.6g}" for value in answer.values.values()]

    def said(self, answer: Answer) -> str:
        """Say each target's value."""
        return "  ".join(f"{name} {value:.6g}" for name, value in answer.values.items())

    def exported(self) -> dict[str, str]:
        """Both are the values."""
        values = "values of shape (batch, targets), in the targets' own units"
        return {"output": values, "values": values}

    def columns(self, classes: Sequence[str]) -> list[str] | None:
        """Targets are called as their columns are."""
        return list(classes)

    def aligned(self, labels: Sequence[Label], order: Sequence[str], classes: Sequence[str]) -> list[Label]:
        """Bring numbers in the order of the model's targets, which are told by name where names are the same."""
        if len(order) != len(classes):
            raise DataError(f"the images have {len(order)} numbers each, and the model gives {len(classes)}")
        if set(order) != set(classes):
            return list(labels)
        places = [list(order).index(name) for name in classes]
        return [None if label is None else tuple(label[place] for place in places) for label in labels]

    def epoch_metrics(self, logits: NDArray[Any], targets: Targets) -> dict[str, float]:
        """Return R2, MAE and RMSE in the targets' own units, and the loss in units of their deviations."""
        from hfft.evaluation import regression_metrics

        check_pairs(logits, targets)
        errors = np.asarray(logits, np.float64) - self._standard(targets.astype(np.float64))
        return {**regression_metrics(self.scores(logits), targets), "loss": float((errors**2).mean())}

    def judge(self, logits: NDArray[Any], targets: Targets, classes: Sequence[str], most: int = 5) -> Judgement:
        """Return R2, MAE and RMSE: their means over the targets, and of several targets each one's own."""
        from hfft.evaluation import regression_metrics

        check_pairs(logits, targets)
        values = self.scores(logits)
        found = regression_metrics(values, targets)
        for place, name in enumerate(classes if len(classes) > 1 else ()):
            own = regression_metrics(values[:, [place]], targets[:, [place]])
            found |= {f"{metric} of {name}": value for metric, value in own.items()}
        ranked = self.scored(values, targets)
        return Judgement(SplitMetrics(len(targets), found, {self.metric: ranked.interval}, method=ranked.method))

    def calibrated(self, logits: NDArray[Any], targets: Targets) -> Regression:
        """A finished head is scaled, so nothing is left to do."""
        return self.scaled

    def constant(self, targets: Targets, count: int) -> NDArray[Any]:
        """Say the mean of the training images."""
        return np.tile(targets.mean(axis=0), (count, 1))

    def probe(self, strength: float) -> Any:
        """Return a ridge regression."""
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1 / strength)

    def probed(self, estimator: Any, features: NDArray[Any]) -> NDArray[Any]:
        """Return values."""
        found = np.asarray(estimator.predict(features))
        return found.reshape(len(features), -1)

    def answers(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return values."""
        return self.scores(logits)

    def compared(self, answers: NDArray[Any], targets: Targets) -> dict[str, float]:
        """Return R2, MAE and RMSE."""
        from hfft.evaluation import regression_metrics

        return regression_metrics(answers, targets)

    def scored(self, answers: NDArray[Any], targets: Targets) -> Resampled:
        """Return R2."""
        return Resampled(self.metric, len(targets), weighted_r2(answers, targets), targets.shape[1])

    def described(self, classes: Sequence[str]) -> str:
        """Name what it estimates."""
        return f"A model that estimates {', '.join(classes)} from an image"

    def limit(self, classes: Sequence[str]) -> str:
        """It always answers."""
        return f"It gives a number for {', '.join(classes)} to every image, of whatever it may be"

    def reading(self) -> str:
        """Return lines that print the values."""
        return """with torch.no_grad():
    values = model(**inputs).logits[0].tolist()
print({model.config.id2label[number]: value for number, value in enumerate(values)})"""

    def _standard(self, targets: Any) -> Any:
        """Return targets, a tensor or an array, in units of their deviations around their means."""
        if not self.scale:
            return targets
        if isinstance(targets, np.ndarray):
            return (targets - np.array(self.offset)) / np.array(self.scale)
        return (targets - targets.new_tensor(self.offset)) / targets.new_tensor(self.scale)


REGRESSION = Regression()
"""As a finished model has it, whose outputs are the targets' own numbers."""
