"""Metrics against values worked out by hand, against scikit-learn, and in awkward places."""

import numpy as np
import pytest
from scipy.stats import binomtest

from hfft import metrics
from hfft.errors import DataError


def test_ece_of_known_cases() -> None:
    confidence = np.full(100, 0.75)
    right = np.arange(100) < 75
    assert metrics.reliability(confidence, right).error == pytest.approx(0)
    assert metrics.reliability(confidence, ~right).error == pytest.approx(0.5)
    assert metrics.reliability(np.ones(4), np.ones(4, dtype=bool)).error == 0
    two_bins = metrics.reliability(np.array([0.1, 0.1, 1.0]), np.array([True, False, True]), bins=2)
    assert two_bins.counts.tolist() == [2, 1]
    assert two_bins.error == pytest.approx(2 / 3 * 0.4)


@pytest.mark.parametrize(
    ("correct", "total", "expected"),
    [
        (20, 20, (0.8389, 1.0)),
        (0, 20, (0.0, 0.1611)),
        (81, 263, (0.2553, 0.3662)),  # Newcombe (1998), "Two-sided confidence intervals", method 3
        (15, 148, (0.0624, 0.1605)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_interval_as_published(correct: int, total: int, expected: tuple[float, float]) -> None:
    assert metrics.wilson_interval(correct, total) == pytest.approx(expected, abs=6e-5)


def test_wilson_interval_is_that_of_scipy() -> None:
    for correct, total, level in ((0, 1, 0.95), (3, 7, 0.5), (499, 500, 0.99), (9, 9, 0.9)):
        expected = binomtest(correct, total).proportion_ci(level, method="wilson")
        assert metrics.wilson_interval(correct, total, level) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_interval_refuses_no_images() -> None:
    with pytest.raises(DataError, match="no images"):
        metrics.wilson_interval(0, 0)


@pytest.mark.parametrize(("truth", "images"), [(0.98, 50), (0.99, 100), (0.95, 50), (0.95, 200), (0.9, 30), (0.8, 300)])
def test_wilson_interval_covers_the_truth_about_as_often_as_it_says(truth: float, images: int) -> None:
    """2,000 seeded draws each. The percentile bootstrap covers 0.62 at (0.98, 50) and 0.64 at (0.99, 100).

    Coverage of a count cannot be exactly 95 %; Wilson's dips to 0.91 near 1 and is 0.95 on average.
    """
    correct = np.random.default_rng(0).binomial(images, truth, size=2000)
    intervals = np.array([metrics.wilson_interval(int(count), images) for count in correct])
    held = ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean()
    assert 0.90 <= held <= 0.985


def paired(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of two models is right on each image, from the counts of the four cases."""
    a = [1] * both + [1] * first + [0] * second + [0] * neither
    b = [1] * both + [0] * first + [1] * second + [0] * neither
    return np.array(a, dtype=bool), np.array(b, dtype=bool)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # Newcombe's own examples of method 10 (Statistics in Medicine 17, 1998, 2635-2650).
        ((36, 12, 2, 0), (0.2, 0.0569, 0.3404)),
        ((54, 0, 0, 0), (0.0, -0.0664, 0.0664)),
        ((0, 30, 0, 0), (1.0, 0.8395, 1.0)),
    ],
)
def test_paired_difference_as_published(
    counts: tuple[int, int, int, int], expected: tuple[float, float, float]
) -> None:
    found = metrics.paired_difference(*paired(*counts))
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=6e-5)


def test_paired_difference_turns_with_its_models() -> None:
    one, other = paired(40, 7, 3, 10)
    there, back = metrics.paired_difference(one, other), metrics.paired_difference(other, one)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.p == back.p == pytest.approx(binomtest(3, 10).pvalue)  # 7 against 3 of 10 coins


def test_models_that_agree_on_every_image_differ_by_nothing_that_is_known() -> None:
    one = np.ones(20, dtype=bool)
    found = metrics.paired_difference(one, one)
    assert (found.value, found.p) == (0, 1)
    assert found.low < -0.1
    assert found.high > 0.1


def test_paired_difference_refuses_what_is_not_paired() -> None:
    with pytest.raises(DataError, match="no images"):
        metrics.paired_difference(np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(DataError, match="20 and 19"):
        metrics.paired_difference(np.zeros(20, bool), np.zeros(19, bool))


@pytest.mark.parametrize(
    ("shares", "images"),
    [
        ((0.90, 0.06, 0.02, 0.02), 50),
        ((0.96, 0.02, 0.01, 0.01), 100),
        ((0.5, 0.2, 0.1, 0.2), 30),
        ((0.8, 0.1, 0.05, 0.05), 500),
    ],
)
def test_paired_difference_covers_the_truth_about_as_often_as_it_says(shares: tuple[float, ...], images: int) -> None:
    """1,000 seeded draws of the four cases (both right, the first alone, the second alone, neither)."""
    truth, held = shares[1] - shares[2], 0
    for counts in np.random.default_rng(0).multinomial(images, shares, size=1000):
        found = metrics.paired_difference(*paired(*counts))
        held += found.low <= truth <= found.high
    assert 0.93 <= held / 1000 <= 0.999  # wider than it says where hardly anything differs


@pytest.mark.parametrize(("images", "expected"), [(20, "0.950 (19 of 20)"), (99, "0.950 (94 of 99)"), (100, "0.950")])
def test_small_sets_are_counted(images: int, expected: str) -> None:
    assert metrics.counted(0.95, images) == expected
