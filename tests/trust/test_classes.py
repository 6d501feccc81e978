"""Statistics of classes add up, and put a new class beside a trained head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hfft.errors import ModelError
from hfft.trust.classes import ClassStatistics, Kept, digests, extended_layer, read_kept, write_kept


def made(images: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features around a mean of each class, and the classes."""
    random = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(9).normal(size=(classes, width))
    labels = np.arange(images) % classes
    return centres[labels] + random.normal(size=(images, width)), labels


@pytest.mark.parametrize(("first", "second"), [(9, 60), (60, 9), (200, 100)])
def test_statistics_of_two_sets_are_those_of_both(first: int, second: int) -> None:
    features, labels = made(first + second, 20, 4)
    whole = ClassStatistics.of(features, labels, 4)
    parts = [ClassStatistics.of(features[rows], labels[rows], 4) for rows in (slice(first), slice(first, None))]
    together = parts[0].joined(parts[1])
    assert np.array_equal(together.counts, whole.counts)
    assert np.allclose(together.means, whole.means)
    assert np.allclose(together.spread.T @ together.spread, whole.spread.T @ whole.spread)
    assert len(together.spread) <= 20
    for one, other in zip(together.layer(), whole.layer(), strict=True):
        assert np.allclose(one, other)


def test_a_new_class_joins_and_the_rows_of_the_others_stay() -> None:
    features, labels = made(300, 20, 4)
    old = labels < 3
    before = ClassStatistics.of(features[old], labels[old], 3)
    trained = [5 * values for values in before.layer()]  # of another scale than the closed form
    after = before.widened(4).joined(ClassStatistics.of(features[~old], labels[~old], 4))
    weight, bias = extended_layer(trained[0], trained[1], after)
    assert np.array_equal(weight[:3], trained[0])
    assert np.array_equal(bias[:3], trained[1])
    others, truth = made(400, 20, 4, seed=1)
    right = (others @ weight.T + bias).argmax(1) == truth
    assert right[truth == 3].mean() > 0.95
    assert right[truth < 3].mean() > 0.95
    # In the scale of the trained rows: else one class would always win, or never.
    assert 0.5 < np.linalg.norm(weight[3] - weight[:3].mean(0)) / np.linalg.norm(weight[0] - weight[:3].mean(0)) < 2


def test_a_class_without_images_takes_part_in_nothing() -> None:
    features, labels = made(90, 8, 3)
    weight, bias = ClassStatistics.of(features, labels, 3).widened(5).layer()
    assert np.allclose(weight[3:], weight[:3].mean(0))
    assert np.isfinite(bias).all()


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    features, labels = made(30, 8, 3)
    contents = {"train": digests([f"{number:064x}" for number in range(30)])}
    kept = Kept(ClassStatistics.of(features, labels, 3), contents, {"train": labels})
    write_kept(tmp_path / "kept", kept)
    found = read_kept(tmp_path / "kept")
    assert np.array_equal(found.contents["train"], contents["train"])
    assert np.array_equal(found.labels["train"], labels)
    assert np.allclose(found.statistics.means, kept.statistics.means, atol=1e-5)
    (tmp_path / "kept").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="train the run again"):
        read_kept(tmp_path / "kept")
