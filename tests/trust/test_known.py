"""Unknown images: distances as they are defined, a threshold that keeps what it says, a file that lasts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hfft.errors import ModelError
from hfft.trust.known import (
    SHARE,
    KnownImages,
    learn,
    neighbour_distance,
    neighbour_place,
    read_known,
    unit_rows,
    write_known,
)

SIZE = 12


def features(images: int, seed: int, classes: int = 3) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images of classes that lie in different directions."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    return (np.eye(SIZE)[labels] * 4 + generator.normal(0, 1, (images, SIZE))).astype(np.float32), labels


def known() -> KnownImages:
    rows, labels = features(150, 0)
    held_out, _ = features(99, 1)
    return learn(rows, labels, tuple(f"{row}.png" for row in range(150)), held_out)


def test_neighbours_by_hand() -> None:
    rows, labels = features(30, 0)
    others, _ = features(7, 1)
    place = neighbour_place(labels)
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in rows] for a in others])
    expected = 1 - np.sort(cosines, axis=1)[:, -place]
    assert neighbour_distance(unit_rows(rows), labels)(unit_rows(others)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("images", "place"), [(3, 1), (9, 1), (12, 2), (300, 5)])
def test_small_classes_take_a_nearer_neighbour(images: int, place: int) -> None:
    assert neighbour_place(features(images, 0)[1]) == place


def test_known_images_are_known_and_others_are_not() -> None:
    found = known()
    fresh, _ = features(3000, 2)
    kept = np.mean([not each.unknown for each in found.compare(fresh)])
    assert SHARE - 0.04 < kept < 1
    elsewhere = np.zeros((5, SIZE), np.float32)
    elsewhere[:, 7] = 4
    assert all(each.unknown and each.score > 1 for each in found.compare(elsewhere))
    assert all(each.unknown for each in found.compare(np.zeros((2, SIZE), np.float32)))
    assert all(each.unknown for each in found.compare(np.full((2, SIZE), np.nan, np.float32)))


@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_single_image_of_a_class_and_fewer_images_than_features(images: int) -> None:
    rows, labels = features(images, 0)
    found = learn(rows, labels, tuple(map(str, range(images))), rows)
    assert found.threshold > 0
    assert np.isfinite([each.score for each in found.compare(features(4, 1)[0])]).all()


def test_the_nearest_are_named_in_order() -> None:
    rows, _ = features(150, 0)
    found = known()
    (first,) = found.compare(rows[7:8], nearest=3)
    names = found.neighbours(first, ("a", "b", "c"))
    assert (names[0].file, names[0].label) == ("7.png", "b")
    assert names[0].similarity == pytest.approx(1, abs=1e-3)
    assert [each.similarity for each in names] == sorted((each.similarity for each in names), reverse=True)
    assert len(found.compare(rows[:1], nearest=1000)[0].nearest) == 150


def test_the_file_brings_everything_back(tmp_path: Path) -> None:
    before = replace(known(), truth=np.linspace(0, 1, 9, dtype=np.float32))
    write_known(tmp_path / "x.safetensors", before)
    after = read_known(tmp_path / "x.safetensors", 3)
    fresh, _ = features(20, 3)
    assert after.compare(fresh) == before.compare(fresh)
    assert (after.files, after.threshold) == (before.files, before.threshold)
    assert np.array_equal(after.truth, before.truth)
    write_known(tmp_path / "y.safetensors", after)
    assert (tmp_path / "y.safetensors").read_bytes() == (tmp_path / "x.safetensors").read_bytes()


def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path, good = tmp_path / "x.safetensors", known()
    write_known(path, good)
    with pytest.raises(ModelError, match="classes that a model of 2 does not have"):
        read_known(path, 2)
    bad = {
        "do not belong together": replace(good, files=good.files[1:]),
        "not finite": replace(good, threshold=float("nan")),
    }
    for message, each in bad.items():
        write_known(path, each)
        with pytest.raises(ModelError, match=message):
            read_known(path, 3)
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot read"):
        read_known(path, 3)
