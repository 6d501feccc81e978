"""Sets of labels hold the right one as often as was asked for, and say so where there are too few images to tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from hfft.metrics import probabilities
from hfft.trust.conformal import label_sets, upper_quantile


def case(images: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities that are far too sure, and the true labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 6, images)
    logits = generator.normal(0, 1, (images, 6)) + 1.5 * np.eye(6)[labels]
    return probabilities(logits, 0.2), labels


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_the_guarantee_holds_over_many_draws(coverage: float) -> None:
    held, sizes = [], []
    for seed in range(60):
        shares, labels = case(300, seed)
        truth = shares[np.arange(100), labels[:100]]
        sets = label_sets(shares[100:], truth, coverage)
        held += [label in each for label, each in zip(labels[100:], sets, strict=True)]
        sizes += [len(each) for each in sets]
    assert coverage - 0.012 < np.mean(held) < coverage + 0.025  # 12,000 images; the quantile is rounded up by 1 %
    assert 1 < np.mean(sizes) < 5


def test_a_set_begins_with_the_most_probable_label_and_is_never_empty() -> None:
    shares, labels = case(200, 0)
    for coverage in (0.01, 0.5, 0.99):
        sets = label_sets(shares, shares[np.arange(200), labels], coverage)
        assert [each[0] for each in sets] == shares.argmax(axis=1).tolist()


@pytest.mark.parametrize(("coverage", "fewest"), [(0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_too_few_images_leave_every_label_in(coverage: float, fewest: int) -> None:
    shares, labels = case(200, 0)
    truth = shares[np.arange(200), labels]
    assert math.isinf(upper_quantile(np.arange(fewest - 1), coverage))
    assert upper_quantile(np.arange(fewest), coverage) == fewest - 1
    assert {len(each) for each in label_sets(shares, truth[: fewest - 1], coverage)} == {6}
