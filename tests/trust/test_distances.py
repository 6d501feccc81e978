"""Distances from the training images: as they are defined, and finite where there is little to measure them by."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from hfft.trust.distances import (
    DISTANCES,
    mahalanobis_distance,
    neighbour_distance,
    neighbour_place,
    shrunk_covariance,
)
from hfft.trust.known import unit_rows

SIZE = 12


def features(images: int, seed: int, classes: int = 3) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Images of classes that lie in different directions, at unit length, as they are stored."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    rows = np.eye(SIZE)[labels] * 4 + generator.normal(0, 1, (images, SIZE)) * np.linspace(0.2, 2, SIZE)
    return unit_rows(rows).astype(np.float16), labels


def by_hand(known: NDArray[np.float16], labels: NDArray[np.int64], rows: NDArray[np.float16]) -> list[float]:
    """Mahalanobis distances to the nearest class mean, term by term, with scikit-learn's covariance."""
    trained = known.astype(np.float64)
    means = {label: trained[labels == label].mean(axis=0) for label in np.unique(labels)}
    apart = np.array([row - means[label] for row, label in zip(trained, labels, strict=True)])
    inverse = np.linalg.inv(ledoit_wolf(apart, assume_centered=True)[0])
    gaps = [[row - mean for mean in means.values()] for row in rows.astype(np.float64)]
    return [min(float(np.sqrt(gap @ inverse @ gap)) for gap in each) for each in gaps]


def test_neighbours_by_hand() -> None:
    (rows, labels), (others, _) = features(30, 0), features(7, 1)
    place = neighbour_place(labels)
    cosines = others.astype(np.float64) @ rows.astype(np.float64).T
    expected = 1 - np.sort(cosines, axis=1)[:, -place]
    assert neighbour_distance(rows, labels)(others.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("images", "place"), [(3, 1), (9, 1), (12, 2), (300, 5)])
def test_small_classes_take_a_nearer_neighbour(images: int, place: int) -> None:
    assert neighbour_place(features(images, 0)[1]) == place


@pytest.mark.parametrize(("images", "classes"), [(600, 3), (60, 3), (8, 3), (40, 1), (13, 12)])
def test_mahalanobis_by_hand(images: int, classes: int) -> None:
    (rows, labels), (others, _) = features(images, 0, classes), features(30, 1)
    found = mahalanobis_distance(rows, labels)(others)
    assert found == pytest.approx(by_hand(rows, labels, others), rel=1e-9)
    gaps = labels * 5  # numbers of classes that no image has change nothing
    assert mahalanobis_distance(rows, gaps)(others).tolist() == found.tolist()


@pytest.mark.parametrize(("images", "size"), [(2, 30), (50, 30), (700, 30)])
def test_the_covariance_is_that_of_ledoit_and_wolf(images: int, size: int) -> None:
    rows = np.random.default_rng(0).normal(size=(images, size)) * np.linspace(0.1, 1, size)
    assert shrunk_covariance(rows) == pytest.approx(ledoit_wolf(rows, assume_centered=True)[0], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("images", [1, 3, 7])
@pytest.mark.parametrize("name", list(DISTANCES))
def test_one_image_of_each_class(images: int, name: str) -> None:
    rows, _ = features(images, 0)
    distance = DISTANCES[name](rows, np.arange(images))
    others = distance(features(20, 1)[0])
    assert np.isfinite(others).all()
    assert (distance(rows.astype(np.float32)) < others.min() / 10).all()


def test_without_any_spread_the_nearest_image_is_the_nearest() -> None:
    (rows, _), (others, _) = features(5, 0), features(20, 1)
    found = mahalanobis_distance(rows, np.arange(5))(others)
    gaps = others[:, None].astype(np.float64) - rows[None]
    plain = np.linalg.norm(gaps, axis=2).min(axis=1)
    assert found / plain == pytest.approx(np.full(20, found[0] / plain[0]), rel=1e-6)


def test_the_last_digits_of_a_feature_that_does_not_vary_tell_nothing() -> None:
    # Of thousands of images of few features the covariance is shrunk too little to hide what rounding does.
    generator = np.random.default_rng(0)
    labels = np.arange(5000) % 2
    spread = np.concatenate([np.eye(2)[labels] * 3 + generator.normal(0, 1, (5000, 2)), np.zeros((5000, 6))], axis=1)
    rows = unit_rows(spread + np.array([0] * 4 + [0.7] * 4))
    still = unit_rows(np.ones((9, 8)) + generator.normal(0, 1e-4, (9, 8)))
    fresh = unit_rows(np.array([[2.0, 1, 0, 0, 0.7, 0.7, 0.7, 0.7]]))
    stored, rounded = rows.astype(np.float16), fresh.astype(np.float16)
    for known, of, exact, coarse in (
        (stored, labels, fresh, rounded),
        (still.astype(np.float16), np.zeros(9, np.int64), still, still.astype(np.float16)),
    ):
        distance = mahalanobis_distance(known, of)
        assert distance(coarse.astype(np.float32)) == pytest.approx(distance(exact), abs=1)


def test_what_is_not_a_number_stays_so() -> None:
    for fitted in DISTANCES.values():
        found = fitted(*features(30, 0))(np.full((1, SIZE), np.nan, np.float32))
        assert not (found <= 1).any()
