"""Every image is predicted once, by a model that never saw it, and nothing of the folds is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from finished import make_images, make_model

from hfft.arguments import DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.data.images import ImageSet
from hfft.jobs.advice.compare import Candidate, compare
from hfft.jobs.advice.folds import Folds, cross_validate_probe, fold_by_fold
from hfft.jobs.finetune import set_up
from hfft.tasks.scored import Right
from hfft.training.setup import Settings, Setup


def make_setup(folder: Path, kind: str = "resnet", cache: str = "memory", augment: str = "none") -> Setup:
    settings = Settings(
        ModelArguments(model_name_or_path=str(make_model(folder / "base", kind=kind))),
        DataArguments(train_dir=str(make_images(folder / "images", count=7)), augment=augment),
        PolicyArguments(policy="head"),
        training=FinetuneArguments(output_dir=str(folder / "out"), num_train_epochs=2, use_cpu=True, report_to="none"),
    )
    settings.cache.cache = cache
    settings.training.per_device_train_batch_size = 5
    return set_up(settings)


def images(labels: np.ndarray, groups: list[str] | None = None) -> ImageSet:
    """Labelled images without any pixels."""
    rows = datasets.Dataset.from_dict({"image": [None] * len(labels)})
    return ImageSet(rows, labels, "none", groups=None if groups is None else np.array(groups))


def test_folds_keep_groups_whole() -> None:
    labels = np.arange(24) % 2
    groups = [f"patient {row // 4}" for row in range(24)]
    parts = list(Folds.of(images(labels, groups), 3, seed=0))
    assert len(parts) == 3
    for train, held_out in parts:
        assert not {groups[row] for row in train} & {groups[row] for row in held_out}
    assert len(list(Folds.of(images(labels, groups), 24, seed=0))) == 6  # no more than there are groups


def test_folds_hold_out_every_image_once_and_keep_the_shares() -> None:
    labels = np.array([0] * 7 + [1] * 4 + [2])
    parts = list(Folds.of(images(labels), 3, seed=1))
    assert sorted(np.concatenate([held_out for _, held_out in parts]).tolist()) == list(range(12))
    for train, held_out in parts:
        assert not set(train) & set(held_out)
        assert len(held_out) == 4
        assert np.bincount(labels[held_out], minlength=2)[:2].tolist() in ([2, 2], [2, 1], [3, 1])
    assert [rows.tolist() for pair in parts for rows in pair] != [
        rows.tolist() for pair in Folds.of(images(labels), 3, seed=2) for rows in pair
    ]


def test_a_probe_is_not_asked_about_what_it_saw() -> None:
    """Labels that no feature knows are guessed: a probe that had seen them would be right."""
    random = np.random.RandomState(0)
    labels = np.arange(120) % 4
    folds = Folds.of(images(labels), 4, seed=0)
    assert (cross_validate_probe(random.randn(120, 150), folds, 0) == labels).mean() < 0.45
    known = random.randn(120, 6) + 6 * np.eye(6)[labels]
    assert (cross_validate_probe(known, folds, 0) == labels).mean() > 0.9


def correct(candidate: Candidate) -> list[bool]:
    """Return whether each image was labelled rightly."""
    assert isinstance(candidate.scored, Right)
    found: list[bool] = candidate.scored.correct.tolist()
    return found


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_cached_rows_give_the_same_bits_as_images(tmp_path: Path, kind: str) -> None:
    found = []
    for cache in ("memory", "off"):
        setup = make_setup(tmp_path / cache, kind, cache)
        before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
        advice = compare(setup, ("last_block", "lp_ft"), 2, lambda line: None)
        found.append([correct(candidate) for candidate in advice.candidates])
        assert all(torch.equal(tensor, before[name]) for name, tensor in setup.model.state_dict().items())
    assert found[0] == found[1]


def test_one_boundary_serves_every_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy's predictions do not depend on which others are compared beside it."""
    logits: list[dict[str, list[np.ndarray]]] = []

    def note(setup: Setup, *given: Any) -> Iterator[Any]:
        for held_out, said in fold_by_fold(setup, *given):
            logits[-1].setdefault(setup.plan.policy, []).append(said)
            yield held_out, said

    monkeypatch.setattr("hfft.jobs.advice.compare.fold_by_fold", note)
    for number, policies in enumerate((("head",), ("last_n:2", "head", "last_block"))):
        logits.append({})
        compare(make_setup(tmp_path / str(number), "vit"), policies, 2, lambda line: None)
    assert np.array_equal(logits[0]["head"], logits[1]["head"])


def test_held_out_images_are_not_augmented(tmp_path: Path) -> None:
    """With a rate at which nothing moves, augmentation of what is trained on must not show in what is predicted."""
    found = []
    for augment in ("none", "flip"):
        setup = make_setup(tmp_path / augment, augment=augment)
        setup.settings.training.learning_rate = 1e-30
        advice = compare(setup, ("head",), 2, lambda line: None)
        found.append(correct(advice.candidates[1]))
    assert found[0] == found[1]
