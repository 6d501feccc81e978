"""The temperature: the one that the labels were drawn with, never certainty from few images, never another label."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from hfft.errors import DataError
from hfft.metrics import probabilities, reliability_of
from hfft.trust.calibration import (
    KEY,
    RANGE,
    Calibration,
    calibration_errors,
    crossed_errors,
    fit_temperature,
    set_temperature,
    temperature_of,
)


def drawn(temperature: float, images: int = 4000, labels: int = 5) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and labels drawn with the probabilities that they stand for at a temperature."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (images, labels)).astype(np.float32)
    shares = probabilities(logits, temperature).cumsum(axis=1)
    return logits, (generator.random((images, 1)) > shares).sum(axis=1).clip(0, labels - 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_finds_the_temperature_that_labels_were_drawn_with(temperature: float) -> None:
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.06)


def test_the_calibration_error_of_other_images_falls() -> None:
    logits, labels = drawn(3.0)
    fitted = fit_temperature(logits[:1000], labels[:1000])
    before, after = calibration_errors(logits[1000:], labels[1000:], fitted)
    assert after < 0.03 < 0.2 < before
    assert after == reliability_of(logits[1000:], labels[1000:], fitted).error


def test_a_fold_is_measured_with_the_temperature_of_the_others() -> None:
    logits, labels = drawn(3.0)
    folds = np.arange(len(labels)) % 2
    before, after = crossed_errors(logits, labels, folds)
    assert after < 0.03 < 0.2 < before
    logits[folds == 0] *= 3  # now the right temperature of either fold is wrong for the other
    assert crossed_errors(logits, labels, folds)[1] > 0.15


def test_it_says_what_it_was_fitted_on() -> None:
    assert Calibration(1.5, 36).source == "the 36 validation images"
    assert Calibration(1.5, 240, folds=5).source.startswith("240 images that the model, or one of 5 trained")


@pytest.mark.parametrize("images", [1, 3, 20])
def test_a_few_right_images_are_no_certainty(images: int) -> None:
    labels = np.arange(images) % 4
    logits = np.eye(4, dtype=np.float32)[labels] * 2
    temperature = fit_temperature(logits, labels)
    sure = probabilities(logits, temperature).max(axis=1).mean()
    assert RANGE[0] < temperature < RANGE[1]
    assert images / (images + 1) - 0.1 < sure < 1 - 0.4 / (images + 1)


def test_wrong_images_alone_end_at_the_bound() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2]] * 9
    assert fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(RANGE[1], rel=0.01)


def test_what_is_not_finite_is_not_fitted() -> None:
    assert fit_temperature(np.array([[np.nan, 0.0], [1.0, 2.0]]), np.array([0, 1])) == 1.0
    with pytest.raises(DataError, match="no images"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64))


def test_no_label_changes() -> None:
    logits, _ = drawn(1.0)
    for temperature in (RANGE[0], 0.3, 7.0, RANGE[1]):
        shares = probabilities(logits, temperature)
        assert np.array_equal(shares.argmax(axis=1), logits.argmax(axis=1))
        assert shares.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [None, "2", 0, -1.0, float("nan"), float("inf"), True, [1.5]])
def test_a_configuration_of_a_stranger_may_hold_anything(value: object) -> None:
    assert temperature_of(SimpleNamespace(**{KEY: value})) == 1.0


def test_a_configuration_keeps_it() -> None:
    config = SimpleNamespace()
    set_temperature(config, 1.5)
    assert temperature_of(config) == 1.5
    set_temperature(config, None)
    assert vars(config) == {}
