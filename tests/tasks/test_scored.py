"""How good answers are, and how sure that is: held against scikit-learn, and against sets whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, r2_score

from hfft.tasks.contract import Task
from hfft.tasks.multi_label import MULTI_LABEL
from hfft.tasks.regression import REGRESSION
from hfft.tasks.scored import DRAWS, FEWEST, Resampled, Right, weighted_map, weighted_r2
from hfft.tasks.single_label import SINGLE_LABEL


def labelled(count: int, seed: int, noise: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Draw scores of three labels, of which many are equal, and which images have them."""
    random = np.random.RandomState(seed)
    having = random.rand(count, 3) < (0.2, 0.5, 0.8)
    return np.round(having + noise * random.randn(count, 3), 1), having.astype(np.float32)


def rare(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Draw scores of many labels that few images have."""
    random = np.random.RandomState(seed)
    having = random.rand(count, 20) < 0.1
    return having + 0.7 * random.randn(count, 20), having.astype(np.float32)


def numbers(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    random = np.random.RandomState(seed)
    truth = random.randn(count, 2).astype(np.float32) * (1, 100)
    return truth + random.randn(count, 2) * (0.5, 80), truth.astype(np.float32)


def test_an_image_that_counts_twice_is_as_if_it_were_there_twice() -> None:
    scores, having = labelled(40, 0)
    times = np.random.RandomState(1).multinomial(40, np.full(40, 1 / 40))
    rows = np.repeat(np.arange(40), times)
    each = [average_precision_score(having[rows, label], scores[rows, label]) for label in range(3)]
    assert weighted_map(scores, having > 0)(times) == pytest.approx(np.mean(each))
    values, truth = numbers(40, 0)
    assert weighted_r2(values, truth)(times) == pytest.approx(r2_score(truth[rows], values[rows]), rel=1e-6)


@pytest.mark.parametrize("task", [MULTI_LABEL, REGRESSION], ids=lambda task: task.name)
def test_the_score_is_the_metric_that_decides(task: Task) -> None:
    answers, targets = (labelled if task is MULTI_LABEL else numbers)(50, 2)
    found = task.scored(answers, targets)
    assert found.score == pytest.approx(task.compared(answers, targets)[task.metric])
    assert found.interval[0] < found.score < found.interval[1]
    assert found.error(found) == 0


def test_labels_that_no_image_has_are_left_out() -> None:
    scores, having = labelled(30, 0)
    having[:, 1] = 0
    assert MULTI_LABEL.scored(scores, having).score == pytest.approx(MULTI_LABEL.compared(scores, having)["map"])
    having[:] = 0
    nothing = MULTI_LABEL.scored(scores, having)
    assert np.isnan(nothing.score)
    assert np.isnan(nothing.interval).all()


def test_a_single_image_and_targets_that_do_not_vary() -> None:
    assert np.isfinite(REGRESSION.scored(np.array([[1.0]]), np.array([[1.0]], np.float32)).interval).all()
    assert weighted_r2(np.ones((3, 1)), np.ones((3, 1)))(np.ones(3)) == r2_score(np.ones(3), np.ones(3))
    assert weighted_r2(np.zeros((3, 1)), np.ones((3, 1)))(np.ones(3)) == r2_score(np.ones(3), np.zeros(3))


def test_the_interval_holds_the_metric_of_many_images() -> None:
    """At 95 % two of 40 miss on average; three standard errors of that are 4 more."""
    truth = MULTI_LABEL.scored(*rare(20_000, 999)).score
    intervals = [MULTI_LABEL.scored(*rare(200, seed)).interval for seed in range(40)]
    assert sum(low <= truth <= high for low, high in intervals) >= 34, "percentiles hold it 26 times"


def test_a_difference_is_surer_on_the_same_images() -> None:
    scores, having = labelled(100, 3)
    better = scores + 0.1 * having
    one, other = MULTI_LABEL.scored(scores, having), MULTI_LABEL.scored(better, having)
    assert isinstance(one, Resampled)
    assert len(one.draws) == DRAWS
    assert other.score > one.score
    assert one.error(other) < one.draws.std() / 2


def test_a_very_large_set_is_sampled_less_often() -> None:
    assert len(Resampled("r2", 3, lambda times: float(times[0]), 10**9).draws) == FEWEST


def test_single_labels_are_right_or_wrong() -> None:
    found = SINGLE_LABEL.scored(np.array([0, 1, 1]), np.array([0, 1, 0]))
    assert isinstance(found, Right)
    assert found.score == pytest.approx(2 / 3)
    assert (found.images, found.said) == (3, "0.667 (2 of 3)")


@pytest.mark.filterwarnings("error")
def test_without_a_metric_of_any_sample_nothing_is_known_of_its_error() -> None:
    none = Resampled("map", 4, lambda times: float("nan"))
    assert all(np.isnan([*none.interval, none.error(none), none.spread(0.5, 4)]))
