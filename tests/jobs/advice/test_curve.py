"""A learning curve, and what more images would bring, on sets where the answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from hfft.jobs.advice.curve import LearningCurve, learning_curve
from hfft.training.baselines import fit_probe


def draw(count: int, seed: int, distance: float, classes: int = 4) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw clouds of 30 features around the classes' corners."""
    random = np.random.RandomState(seed)
    labels = np.arange(count) % classes
    features = random.randn(count, 30)
    features[np.arange(count), labels] += distance
    return features, labels


def test_the_band_holds_what_more_images_bring() -> None:
    """A band at 90 % misses 2 of 20 on average; two standard errors of that are 3 more."""
    held = 0
    for distance, seed in itertools.product((1.5, 2.5), range(10)):
        curve = learning_curve(*draw(120, seed, distance), seed)
        assert curve is not None
        _, low, high = curve.at(240)
        known = fit_probe(*draw(240, 100 + seed, distance), 0)
        features, labels = draw(2000, 999, distance)
        held += low <= (known(features) == labels).mean() <= high
    assert held >= 16


def test_a_law_without_noise_is_found() -> None:
    curve = learning_curve(*draw(120, 0, 2.0), 0)
    assert curve is not None
    now, then = curve.at(curve.images)[0], curve.at(10 * curve.images)[0]
    assert now <= then <= 1
    assert curve.scores[0] < curve.scores[-1]
    law = LearningCurve(curve.sizes, curve.scores, 100, np.array([[0.1, 2.0, 0.5]]))
    assert law.at(100) == pytest.approx((0.7, 0.7, 0.7))
    assert law.more(300).startswith("300 more photos: accuracy 0.700 -> 0.800 (0.800 to 0.800)")


def test_too_few_images_have_no_curve() -> None:
    assert learning_curve(*draw(8, 0, 2.0), 0) is None
