"""How good a classifier is: `evaluate` metrics that need no download, and what is built on them."""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value
from numpy.typing import NDArray

from hfft.metrics import (
    ECE_BINS,
    TOP_K,
    WILSON,
    SplitMetrics,
    check_shapes,
    reduce_logits,
    reliability,
    wilson_interval,
)

_CLASS_INPUTS = """
Args:
    predictions (list of int): the predicted label of each image.
    references (list of int): the true label of each image.
"""
_LABEL_SETS = """
Args:
    predictions (list of lists): a number for each label of each image.
    references (list of lists of int): 1 for each label that an image has, 0 for all others.
"""
_NUMBERS = """
Args:
    predictions (list of lists of float): a number for each target of each image.
    references (list of lists of float): the true numbers.
"""
_GUO = """@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {International Conference on Machine Learning},
  year = {2017}
}"""
_SCIKIT = """@article{scikit-learn,
  title = {Scikit-learn: Machine Learning in Python},
  author = {Pedregosa, F. and others},
  journal = {Journal of Machine Learning Research},
  volume = {12},
  pages = {2825--2830},
  year = {2011}
}"""


class _InMemoryMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """A metric that writes no file, so that any number of processes can run it at once, anywhere.

    evaluate otherwise keeps the inputs of `compute` in a locked cache file that every process of the same
    experiment shares, and makes a folder for it even where it is not used.
    """

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        return ""

    def compute(self, *, predictions: Any = None, references: Any = None, **more: Any) -> dict[str, float]:
        """Return the metric of arrays, or of what `add` and `add_batch` were given where there are none.

        Arrays are read as they are: evaluate would first write them, image by image, to a table of Arrow and hash it.
        """
        given = {"predictions": predictions, "references": references, **more}
        found: dict[str, float] = super().compute(**more) if predictions is None else self._compute(**given)
        return found


class Accuracy(_InMemoryMetric):
    """The share of images whose predicted label is the true one."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Share of images whose predicted label is the true one.", _CLASS_INPUTS, _SCIKIT, _label_features()
        )

    def _compute(self, predictions: NDArray[np.int64], references: NDArray[np.int64]) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(_InMemoryMetric):
    """The mean of the labels' F1 scores, over the labels that occur among predictions or references."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Unweighted mean of the labels' F1 scores.", _CLASS_INPUTS, _SCIKIT, _label_features())

    def _compute(self, predictions: NDArray[np.int64], references: NDArray[np.int64]) -> dict[str, float]:
        from sklearn.metrics import f1_score

        return {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0.0))}


class TopK(_InMemoryMetric):
    """The share of images whose true label is among the k most likely ones.

    Args:
        k: how many labels are given per image, most likely first.
    """

    def __init__(self, k: int = TOP_K) -> None:
        self.k = k
        super().__init__()

    def _info(self) -> evaluate.MetricInfo:
        inputs = _CLASS_INPUTS.replace("the predicted label", f"the {self.k} most likely labels, best first,", 1)
        features = Features({"predictions": Sequence(Value("int64"), length=self.k), "references": Value("int64")})
        return _info(f"Share of images whose true label is among the {self.k} most likely.", inputs, "", features)

    def _compute(self, predictions: NDArray[np.int64], references: NDArray[np.int64]) -> dict[str, float]:
        hits = (np.asarray(predictions) == np.asarray(references)[:, None]).any(axis=1)
        return {f"top{self.k}_accuracy": float(hits.mean())}


class ExpectedCalibrationError(_InMemoryMetric):
    """The mean gap between confidence and accuracy, over 15 bins of equal width (Guo et al., ICML 2017)."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = _CLASS_INPUTS + "    confidences (list of float): the probability given to each predicted label.\n"
        features = Features({**_label_features(), "confidences": Value("float64")})
        return _info(f"Gap between confidence and accuracy over {ECE_BINS} bins.", inputs, _GUO, features)

    def _compute(
        self, predictions: NDArray[np.int64], references: NDArray[np.int64], confidences: NDArray[np.float64]
    ) -> dict[str, float]:
        right = np.asarray(predictions) == np.asarray(references)
        return {"ece": reliability(np.asarray(confidences, np.float64), right).error}


class AveragePrecision(_InMemoryMetric):
    """The mean over labels of the average precision of images ranked by a label's probability.

    Labels that no image has are left out; where none has any, it is not a number.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Sequence(Value("float64")), "references": Sequence(Value("int64"))})
        return _info("Mean average precision over labels.", _LABEL_SETS, _SCIKIT, features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        from sklearn.metrics import average_precision_score

        pairs = zip(np.asarray(references).T, np.asarray(predictions).T, strict=True)
        found = [average_precision_score(having, scores) for having, scores in pairs if having.any()]
        return {"map": float(np.mean(found)) if found else float("nan")}


class LabelSets(_InMemoryMetric):
    """How well the labels given to images match those that they have: macro and micro F1, and subset accuracy."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({name: Sequence(Value("int64")) for name in ("predictions", "references")})
        return _info("F1 over labels, and the share of images with all labels right.", _LABEL_SETS, _SCIKIT, features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        from sklearn.metrics import f1_score

        given, having = np.asarray(predictions), np.asarray(references)
        pairs = zip(having.T, given.T, strict=True)
        averages = {
            "f1_macro": float(np.mean([f1_score(*pair, zero_division=0.0) for pair in pairs])),
            "f1_micro": float(f1_score(having.ravel(), given.ravel(), zero_division=0.0)),
        }
        return {**averages, "subset_accuracy": float((given == having).all(axis=1).mean())}


class Errors(_InMemoryMetric):
    """How far numbers are from the true ones: R2, MAE and RMSE, each the mean over targets."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({name: Sequence(Value("float64")) for name in ("predictions", "references")})
        return _info("R2, mean absolute error and root mean squared error.", _NUMBERS, _SCIKIT, features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        found, truth = np.asarray(predictions), np.asarray(references)
        return {
            "r2": float(r2_score(truth, found)) if len(truth) > 1 else float("nan"),
            "mae": float(mean_absolute_error(truth, found)),
            "rmse": float(root_mean_squared_error(truth, found)),
        }


def multi_label_metrics(scores: NDArray[Any], having: NDArray[np.bool_], given: NDArray[np.bool_]) -> dict[str, float]:
    """Return what is reported of images with any number of labels; each array is of shape (images, labels).

    Args:
        scores: probability of each label.
        having: which labels the images have.
        given: which labels they are given.

    Returns:
        ``map`` (mean average precision), ``f1_macro``, ``f1_micro`` and ``subset_accuracy``.
    """
    truth = having.astype(np.int64)
    return {
        **AveragePrecision().compute(predictions=scores.astype(np.float64), references=truth),
        **LabelSets().compute(predictions=given.astype(np.int64), references=truth),
    }


def regression_metrics(values: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    """Return ``r2``, ``mae`` and ``rmse`` of values against true ones, both of shape (images, targets)."""
    found: dict[str, float] = Errors().compute(
        predictions=values.astype(np.float64), references=targets.astype(np.float64)
    )
    return found


def classification_metrics(
    logits: NDArray[Any], labels: NDArray[Any], k: int = TOP_K, temperature: float = 1.0
) -> dict[str, float]:
    """Return everything that is reported about one split.

    Args:
        logits: the model's outputs before the softmax, shape (images, labels).
        labels: the true labels, shape (images,).
        k: how many labels count for the top-k accuracy.
        temperature: of the probabilities that loss and calibration error are of.

    Returns:
        ``accuracy``, ``f1_macro``, ``top5_accuracy`` (by `k`; only where there are more than k labels), ``loss``
        (mean cross-entropy in nats) and ``ece`` (expected calibration error, 0 to 1).

    Raises:
        DataError: there are no images, or the shapes or labels do not fit each other.
    """
    check_shapes(logits, labels)
    ranked, confidences, losses = reduce_logits(logits, labels, min(k, logits.shape[1]), temperature)
    best = ranked[:, 0]
    result: dict[str, float] = {
        **Accuracy().compute(predictions=best, references=labels),
        **MacroF1().compute(predictions=best, references=labels),
    }
    if logits.shape[1] > k:
        result |= TopK(k).compute(predictions=ranked, references=labels)
    result["loss"] = float(losses.mean())
    result |= ExpectedCalibrationError().compute(predictions=best, references=labels, confidences=confidences)
    return result


def split_metrics(logits: NDArray[Any], labels: NDArray[Any], k: int = TOP_K, temperature: float = 1.0) -> SplitMetrics:
    """Return `classification_metrics` of a split, with Wilson's interval of its accuracy."""
    values = classification_metrics(logits, labels, k, temperature)
    interval = wilson_interval(int((logits.argmax(1) == labels).sum()), len(labels))
    return SplitMetrics(len(labels), values, {"accuracy": interval}, method=WILSON)


def _info(description: str, inputs: str, citation: str, features: Features) -> evaluate.MetricInfo:
    plain = all(isinstance(feature, Value) for feature in features.values())
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=inputs,
        features=features,
        format="numpy" if plain else None,  # evaluate hands out numpy arrays of plain values only
    )


def _label_features() -> Features:
    return Features({"predictions": Value("int64"), "references": Value("int64")})
