"""Accuracy where a model is surest, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hfft.trust.selective import COVERAGES, auroc, selective


def test_auroc_is_that_of_scikit_learn_ties_included() -> None:
    generator = np.random.default_rng(0)
    values, correct = generator.integers(0, 9, 200) / 9, generator.random(200) < 0.7
    assert auroc(values[correct], values[~correct]) == pytest.approx(roc_auc_score(correct, values))
    assert auroc(values, values[:0]) is None
    assert auroc(values[:0], values) is None


def test_the_surest_images_are_counted() -> None:
    confidence = np.array([0.5, 0.9, 0.6, 0.8, 0.7, 0.95, 0.99, 0.55, 0.85, 0.75])
    correct = confidence > 0.58
    found = selective(confidence, correct)
    assert [row.coverage for row in found.rows] == list(COVERAGES)
    assert [(row.images, row.correct, row.probability) for row in found.rows] == [
        (10, 8, 0.5),
        (10, 8, 0.5),
        (9, 8, 0.55),
        (8, 8, 0.6),
    ]
    assert [row.accuracy for row in found.rows] == [0.8, 0.8, 8 / 9, 1.0]
    assert found.auroc == 1.0


def test_a_single_image_and_answers_that_are_all_right() -> None:
    found = selective(np.array([0.4]), np.array([True]))
    assert [row.images for row in found.rows] == [1, 1, 1, 1]
    assert found.auroc is None
