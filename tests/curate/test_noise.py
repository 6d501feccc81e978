"""Flipped labels are found, right ones are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from hfft.curate.neighbours import far_from_all, nearest
from hfft.curate.noise import Opinion, cross_validated, opinion_of_others
from hfft.trust.known import unit_rows


def blobs(per_class: int = 40, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Well-separated clusters in 16 dimensions."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(0, 4, (classes, 16))
    labels = np.repeat(np.arange(classes), per_class)
    return centres[labels] + random.normal(0, 1, (len(labels), 16)), labels


def test_flips_are_found_with_their_labels() -> None:
    features, truth = blobs()
    labels = truth.copy()
    flipped = np.random.default_rng(1).permutation(len(labels))[:16]
    labels[flipped] = (labels[flipped] + 1) % 4
    opinion = cross_validated([features], labels, seed=0)
    found = opinion.suspects()
    assert set(found) == set(flipped)
    assert (opinion.suggestions[found] == truth[found]).all()
    assert (np.diff(opinion.scores[found]) >= 0).all()
    assert set(np.argsort(opinion.scores)[:16]) == set(flipped)


def test_right_labels_are_not_suspect() -> None:
    assert len(cross_validated([blobs()[0]], blobs()[1], seed=0).suspects()) == 0


def test_the_same_seed_gives_the_same_opinion() -> None:
    features, labels = blobs()
    first, second = (cross_validated([features], labels, seed=3).probabilities for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_class_of_two_has_a_say() -> None:
    features, labels = blobs(per_class=20, classes=3)
    kept = np.concatenate([np.flatnonzero(labels < 2), np.flatnonzero(labels == 2)[:2]])
    opinion = cross_validated([features[kept]], labels[kept], seed=0)
    assert not set(opinion.suspects()) - {len(kept) - 1, len(kept) - 2}  # too few to be learned well, at worst


def test_a_label_is_held_against_the_mean_probability_of_its_class() -> None:
    # The second class gets 0.6 at best: 0.6 for another label's image is confident, 0.5 is not.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.4, 0.6], [0.45, 0.55]])
    opinion = Opinion(probabilities, np.array([0, 0, 1, 1, 0, 0]))
    assert opinion.thresholds().tolist() == pytest.approx([0.6625, 0.6])
    assert opinion.suspects().tolist() == [4]


def test_nothing_is_learned_from_the_labels_of_others() -> None:
    features, labels = blobs()
    others, truth = blobs(seed=5)
    values, learning = [np.concatenate([features, others])], np.arange(len(labels))
    asked = learning + len(labels)
    right = opinion_of_others(values, np.concatenate([labels, truth]), learning, asked, seed=0)
    wrong = opinion_of_others(values, np.concatenate([labels, (truth + 1) % 4]), learning, asked, seed=0)
    np.testing.assert_array_equal(right.probabilities, wrong.probabilities)
    assert len(right.suspects()) == 0
    assert len(wrong.suspects()) > 0.9 * len(truth)


def test_nearest_are_the_nearest_but_never_itself() -> None:
    features, _ = blobs(per_class=10)
    unit = unit_rows(features)
    rows, cosines = nearest(unit, np.array([3, 17]), 4)
    products = unit @ unit.T
    np.fill_diagonal(products, -np.inf)
    for place, row in enumerate((3, 17)):
        assert rows[place].tolist() == np.argsort(-products[row])[:4].tolist()
        np.testing.assert_allclose(cosines[place], np.sort(products[row])[::-1][:4], rtol=1e-5)


def test_what_is_far_from_all_is_found() -> None:
    features, _ = blobs()
    strange = np.concatenate([features, -features.mean(axis=0, keepdims=True) * 9 + np.eye(16)[:1] * 30])
    rows, distances = far_from_all(unit_rows(strange))
    assert rows.tolist() == [len(features)]
    assert distances.argmax() == len(features)
    assert len(far_from_all(unit_rows(features[:8]))[0]) == 0  # too few to tell


def test_a_feature_that_does_not_vary_has_no_say() -> None:
    # Constant but for the rounding of float32 where is learned from, and another number in the images that are asked.
    features, labels = blobs()
    others, truth = blobs(seed=5)
    random = np.random.default_rng(3)
    given, asked = np.concatenate([labels, truth]), np.arange(len(labels)) + len(labels)

    def opinion(value: float) -> np.ndarray:
        still = np.concatenate([1 + random.normal(0, 1e-7, len(labels)), np.full(len(truth), value)])
        values = np.concatenate([np.concatenate([features, others]), still[:, None]], axis=1)
        return opinion_of_others([values], given, np.arange(len(labels)), asked, seed=0).probabilities

    np.testing.assert_allclose(opinion(1.01), opinion(1.0), atol=0.01)
