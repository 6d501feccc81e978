"""Calibrated probabilities: one temperature that all logits are divided by, fitted on images held out of training.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017. No label changes, since the
order of the logits stays, and no weight: the temperature stands in ``config.json``, where stock transformers passes it
over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.metrics import check_shapes, log_probabilities, reliability_of
from hfft.wording import count_of

KEY = "calibration_temperature"
"""Of the temperature in a model's ``config.json``."""
RANGE = (0.05, 20.0)
"""Lowest and highest temperature."""
_DIGITS = 4
_MOST = 10_000  # images that it is fitted on


@dataclass(frozen=True)
class Calibration:
    """How a model's probabilities were calibrated, and what that did on images that it was not fitted on.

    Args:
        temperature: that logits are divided by.
        images: how many images it was fitted on: validation images, and in folds training images.
        before: expected calibration error without it of the test images, 0 to 1; where there are none, of the training
            images in folds, each fold with the temperature of the others; None where there are neither.
        after: the same with it.
        folds: how many models spoke of training images that they had not seen; 0 for validation images alone.
        missing: why there are no folds although no validation set was given; empty where nobody would expect any.
    """

    temperature: float
    images: int
    before: float | None = None
    after: float | None = None
    folds: int = 0
    missing: str = ""

    @property
    def source(self) -> str:
        """Say what the temperature was fitted on."""
        if not self.folds:
            return f"the {count_of(self.images, 'validation image')}"
        images = count_of(self.images, "image")
        return f"{images} that the model, or one of {self.folds} trained without them, had not seen"


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the temperature under which held-out labels are most probable.

    One more image that belongs to every class alike counts beside those given, as in Laplace's rule of succession:
    where a few held-out images are all labelled rightly, the most probable temperature would be 0, which is certainty.

    Args:
        logits: shape (images, labels).
        labels: the true labels, shape (images,).

    Returns:
        A number within `RANGE`, with four decimals; 1 where a logit is not finite.

    Raises:
        DataError: there are no images, or the shapes do not fit each other.
    """
    from scipy.optimize import minimize_scalar

    check_shapes(logits, labels)
    step = math.ceil(len(labels) / _MOST)
    logits, labels = logits[::step], labels[::step]
    if not np.isfinite(logits).all():
        return 1.0

    def loss(logarithm: float) -> float:
        rows = log_probabilities(logits, math.exp(logarithm))
        return -float(rows[np.arange(len(rows)), labels].sum() + rows.mean())

    found = minimize_scalar(loss, bounds=[math.log(end) for end in RANGE], method="bounded", options={"xatol": 1e-5})
    return round(math.exp(found.x), _DIGITS)


def calibration_errors(logits: NDArray[Any], labels: NDArray[Any], temperature: float) -> tuple[float, float]:
    """Return the expected calibration error of images without a temperature and with it.

    Args:
        logits: shape (images, labels).
        labels: the true labels, shape (images,).
        temperature: what `fit_temperature` returned for other images.
    """
    before, after = (reliability_of(logits, labels, each).error for each in (1.0, temperature))
    return before, after


def crossed_errors(logits: NDArray[Any], labels: NDArray[Any], folds: NDArray[np.int64]) -> tuple[float, float]:
    """Return the same, each fold's logits divided by the temperature of all other folds.

    Args:
        logits: shape (images, labels).
        labels: the true labels, shape (images,).
        folds: number of each image's fold, shape (images,); at least two different ones.
    """
    scaled = np.asarray(logits, np.float64).copy()
    for fold in np.unique(folds):
        scaled[folds == fold] /= fit_temperature(logits[folds != fold], labels[folds != fold])
    return reliability_of(logits, labels, 1.0).error, reliability_of(scaled, labels, 1.0).error


def temperature_of(config: Any) -> float:
    """Return the temperature in a model's configuration; 1 where there is none that can be used.

    Args:
        config: of transformers; that of a stranger may hold anything.
    """
    value = getattr(config, KEY, None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 1.0
    return float(value) if math.isfinite(value) and value > 0 else 1.0


def set_temperature(config: Any, temperature: float | None) -> None:
    """Put a temperature into a model's configuration; None takes it out."""
    vars(config).pop(KEY, None)
    if temperature is not None:
        setattr(config, KEY, temperature)
