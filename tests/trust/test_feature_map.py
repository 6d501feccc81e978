"""Images as points of a plane: its directions, its turning, what is counted beside it, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hfft.errors import OutputError
from hfft.trust.feature_map import FeatureMap, feature_map, fit_plane, nearest_alike, read_map, write_map


def classes(spread: float, seed: int = 0, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes that lie apart, with noise of a size of one's choice."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), count)
    middles = np.eye(3, 8) * 4
    return middles[labels] + random.normal(0, spread, (len(labels), 8)), labels


def drawn(spread_before: float = 3.0, spread_after: float = 0.3) -> FeatureMap:
    before = {split: classes(spread_before, seed)[0] for seed, split in enumerate(("train", "validation"))}
    after = {split: classes(spread_after, seed)[0] for seed, split in enumerate(("train", "validation"))}
    labels = {split: classes(1, 0)[1] for split in before}
    files = {split: [f"{split}/{row}.png" for row in range(60)] for split in before}
    said = labels["validation"].copy()
    said[0] = 2
    return feature_map(before, after, labels, files, said)


def test_a_plane_keeps_what_varies_and_says_how_much() -> None:
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, 50)
    flat = np.stack([np.cos(angle), np.zeros(50), np.sin(angle), np.zeros(50)], axis=1)
    plane = fit_plane(flat)
    assert plane.share == pytest.approx(1)
    points = plane.place(flat)
    # A plane that holds all features keeps all distances.
    gaps = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    assert np.allclose(np.linalg.norm(points[:, None] - points[None], axis=2), gaps, atol=1e-5)
    assert np.allclose(plane.place(5 * flat), points, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_images_have_a_plane_as_well(rows: int) -> None:
    features = np.random.default_rng(0).normal(size=(rows, 5))
    points = fit_plane(features).place(features)
    assert points.shape == (rows, 2)
    assert np.isfinite(points).all()


def test_equal_images_lie_in_one_point() -> None:
    plane = fit_plane(np.ones((4, 3)))
    assert plane.share == 0
    assert np.allclose(plane.place(np.ones((4, 3))), 0)


def test_the_nearest_training_image_is_counted_by_class() -> None:
    train = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert (
        nearest_alike(train, np.array([0, 1]), np.array([[2.0, 0.1], [0.1, 2.0], [3.0, 0.0]]), np.array([0, 0, 0])) == 2
    )


def test_before_is_turned_to_lie_as_after_does() -> None:
    found = drawn(spread_before=0.3)
    assert found.before is not None
    moved = found.before.points["train"] - found.after.points["train"]
    mirrored = found.before.points["train"] * [-1, 1] - found.after.points["train"]
    assert np.linalg.norm(moved) < np.linalg.norm(mirrored)
    assert np.linalg.norm(moved) < 0.5 * np.linalg.norm(found.after.points["train"])
    assert np.allclose(found.before.plane.axes @ found.before.plane.axes.T, np.eye(2), atol=1e-5)


def test_training_brings_images_of_a_class_together() -> None:
    found = drawn()
    assert found.before is not None
    assert found.before.alike < found.after.alike == 60
    assert found.wrong.tolist() == [True, *[False] * 59]
    assert [title for title, _ in found.sides] == ["before fine-tuning", "after fine-tuning"]


@pytest.mark.parametrize("with_before", [True, False])
def test_a_map_is_read_as_it_was_written(with_before: bool, tmp_path: Path) -> None:
    found = drawn()
    if not with_before:
        found = feature_map(
            None, {"train": classes(1)[0], "validation": classes(1, 1)[0]}, found.labels, found.files, found.said
        )
    write_map(tmp_path / "map.safetensors", found)
    read = read_map(tmp_path / "map.safetensors")
    assert (read.before is not None) == with_before
    assert read.files == {split: tuple(names) for split, names in found.files.items()}
    assert np.array_equal(read.said, found.said)
    for (_, one), (_, other) in zip(read.sides, found.sides, strict=True):
        assert one.alike == other.alike
        assert np.array_equal(one.points["train"], other.points["train"])
        new = classes(1, 7)[0]
        assert np.array_equal(one.plane.place(new), other.plane.place(new))


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "map.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(OutputError, match=r"map\.safetensors is damaged"):
        read_map(path)
    write_map(path, drawn())
    tensors = load_file(path)
    save_file(tensors, path)  # without its entry
    with pytest.raises(OutputError, match="is damaged"):
        read_map(path)
    short = drawn()
    write_map(path, FeatureMap(short.before, short.after, short.labels, {**short.files, "train": ["one"]}, short.said))
    with pytest.raises(OutputError, match="do not fit together"):
        read_map(path)
