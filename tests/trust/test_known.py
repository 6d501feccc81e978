"""Unknown images: distances as they are defined, a threshold that keeps what it says, a file that lasts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hfft.errors import ModelError
from hfft.trust.distances import DISTANCES
from hfft.trust.known import SHARE, KnownImages, learn, read_known, unit_rows, united, write_known

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


def first_format(path: Path, neighbours: float) -> None:
    """Write known images as hfft did when their distance had no name."""
    kept = known()
    tensors: dict[str, NDArray[Any]] = {"features": kept.features, "labels": kept.labels, "truth": kept.truth}
    about = {"format": 1, "threshold": neighbours, "files": kept.files}
    save_file(tensors, path, {"hfft_known_images": json.dumps(about)})


def test_a_file_of_the_first_format_is_compared_as_it_was(tmp_path: Path) -> None:
    path, fresh = tmp_path / "x.safetensors", features(40, 3)[0]
    first_format(path, 0.25)
    found = read_known(path, 3)
    similarity = unit_rows(fresh) @ found.features.astype(np.float32).T
    expected = (1 - np.partition(similarity, -5, axis=1)[:, -5].astype(np.float64)) / 0.25
    assert [each.score for each in found.compare(fresh)] == expected.tolist()
    assert found.method == "neighbours"
    write_known(path, found)
    assert read_known(path, 3).compare(fresh) == found.compare(fresh)


def test_the_score_is_the_mahalanobis_distance_over_the_largest_known_one() -> None:
    found, fresh = known(), features(40, 3)[0]
    distances = DISTANCES["mahalanobis"](found.features, found.labels)
    held_out = np.sort(distances(unit_rows(features(99, 1)[0])))
    assert found.method == "mahalanobis"
    assert found.threshold == pytest.approx(held_out[94] * 1.0001)  # the 95th of 99: of 100 images five lie beyond it
    scores = [each.score for each in found.compare(fresh)]
    assert scores == pytest.approx(distances(unit_rows(fresh)) / found.threshold, rel=1e-12)


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
    first_format(path, 0.25)
    tensors = load_file(path)
    for about, message in (
        ({"format": 3}, "has format 3, but this hfft reads 1 and 2; update hfft"),
        ({"format": 2, "distance": "cosine"}, "the distance 'cosine', but this hfft knows mahalanobis and neighbours"),
        ({"format": 2, "threshold": 1, "files": good.files}, "the distance None, but"),
    ):
        save_file(tensors, path, {"hfft_known_images": json.dumps(about)})
        with pytest.raises(ModelError, match=message):
            read_known(path, 3)
    long = replace(good, features=good.features * np.float16(9))
    write_known(path, long)
    with pytest.raises(ModelError, match="not of length 1; copy it again"):
        read_known(path, 3)


@pytest.mark.parametrize("method", list(DISTANCES))
def test_images_that_join_are_compared_as_the_old_ones(method: str) -> None:
    fitted = DISTANCES[method]
    rows, labels = features(150, 0)
    old = known() if method == "mahalanobis" else replace(known(), method=method, threshold=0.3, fitted=None)
    more, held_out = (features(count, seed, classes=4) for count, seed in ((200, 5), (400, 6)))
    (more, numbers), held_out = ((each[0][each[1] == 3], each[1][each[1] == 3]) for each in (more, held_out))
    new = learn(more, numbers, tuple(f"new{row}.png" for row in range(50)), held_out[0])
    both = united(old, new, held_out[0])
    assert (both.method, both.files, len(both.labels)) == (method, (*old.files, *new.files), 200)
    distance = fitted(np.concatenate([old.features, new.features]), np.concatenate([labels, numbers]))
    assert both.distance(unit_rows(rows)).tolist() == distance(unit_rows(rows)).tolist()
    for fresh, least in ((features(900, 7)[0], 0.9), (features(900, 8, classes=4)[0], 0.9)):
        kept = np.mean([not each.unknown for each in both.compare(fresh)])
        assert least < kept < 1
    assert len(both.truth) == 0
