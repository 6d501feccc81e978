"""A learning curve, and what more images would bring, on sets where the answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from hfft.jobs.advice.curve import LearningCurve, _samples, learning_curve
from hfft.tasks.multi_label import MULTI_LABEL
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


def test_noise_has_a_flat_curve_whatever_the_metric() -> None:
    """Average precision is higher on fewer images, so all sizes are evaluated on as many."""
    slopes = []
    for seed in range(6):
        random = np.random.RandomState(seed)
        features, labels = random.randn(120, 20), (random.rand(120, 10) < 0.08).astype(np.float32)
        curve = learning_curve(features, labels, seed, MULTI_LABEL)
        assert curve is not None
        slopes.append(curve.scores[-1] - curve.scores[0])
    error = np.std(slopes, ddof=1) / len(slopes) ** 0.5
    assert abs(np.mean(slopes)) < 3 * error


def test_groups_are_learned_from_or_held_out_as_a_whole() -> None:
    """Images of a group are all but equal and labels are drawn by group: nothing can be learned about another one."""
    random = np.random.RandomState(0)
    groups = np.repeat([f"g{number:02d}" for number in range(24)], 6)
    features = np.repeat(random.randn(24, 30), 6, axis=0) + 0.01 * random.randn(144, 30)
    labels = np.repeat(random.permutation(np.arange(24) % 2), 6)
    alone, whole = (learning_curve(features, labels, 0, groups=given) for given in (None, groups))
    assert alone is not None
    assert whole is not None
    assert alone.scores[-1] > 0.95
    assert whole.scores.max() < 0.75
    assert learning_curve(features[:24], labels[:24], 0, groups=groups[:24]) is None
    for rows, held_out in (_samples(labels, groups, [30, 60, 90], seed) for seed in range(5)):
        for each in rows:
            assert set(groups[each]).isdisjoint(groups[held_out])
            assert set(labels[each].tolist()) == {0, 1}


@pytest.mark.parametrize("count", range(5, 12))
def test_few_large_groups_have_a_curve_or_none(count: int) -> None:
    """Each group is of one class: samples by size alone would begin with a single class."""
    random = np.random.RandomState(count)
    groups = np.repeat([f"g{number:02d}" for number in range(count)], 20)
    labels = np.repeat(np.arange(count) % 3, 20)
    features = np.eye(3)[labels] @ random.randn(3, 10) + 0.1 * random.randn(len(labels), 10)
    curve = learning_curve(features, labels, 0, groups=groups)
    assert curve is None or (len(curve.sizes) >= 3 and (np.diff(curve.sizes) > 0).all())
    assert (curve is not None) == (count >= 8)
