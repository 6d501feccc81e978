"""Many linear heads in one loop, and the one layer that is their mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hfft.training.baselines import standardised
from hfft.training.recipe import ensemble
from hfft.training.recipe.ensemble import KINDS, SEEDS, Heads, Kind, chosen, fit_ensemble, folded, train_heads

WIDTH, CLASSES = 12, 4


def made(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(9).normal(size=(CLASSES, WIDTH))
    labels = np.arange(images) % CLASSES
    features = centres[labels] + np.random.default_rng(seed).normal(size=(images, WIDTH))
    features[:, 0] = 7.0  # one that does not vary
    return features, labels


def test_the_layer_gives_the_mean_of_the_heads_logits() -> None:
    features, labels = made(60)
    mean, scale = standardised(features)
    rows = torch.from_numpy((features - mean) / scale).float()
    heads = train_heads(rows, torch.from_numpy(labels), CLASSES, KINDS[:3], seed=1)
    layer = folded(heads, np.arange(CLASSES), mean, scale)
    assert len(heads.weight) == 3 * SEEDS
    wanted = heads.logits(rows).mean(dim=0).numpy()
    assert np.abs(features @ layer.weight.T + layer.bias - wanted).max() < 1e-5
    assert np.abs(wanted).max() > 0.5


def test_each_head_learns_as_it_would_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own AdamW on one head, step by step."""
    monkeypatch.setattr(ensemble, "SEEDS", 1)
    monkeypatch.setattr(ensemble, "STEPS", 20)
    features, labels = made(10)  # one batch's worth of draws
    rows, truth = torch.from_numpy(features).float(), torch.from_numpy(labels)
    kinds = (Kind(0.01, 0.5), Kind(0.001, 0.0))
    heads = train_heads(rows, truth, CLASSES, kinds, seed=3)
    for place, kind in enumerate(kinds):
        generator = torch.Generator().manual_seed(3)
        weight = torch.nn.Parameter(0.01 * torch.randn(1, CLASSES, WIDTH, generator=generator)[0])
        bias = torch.nn.Parameter(torch.zeros(CLASSES))
        groups = [{"params": [weight], "weight_decay": kind.decay}, {"params": [bias], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=kind.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        for _ in range(20):
            batch = torch.randint(10, (1, 10), generator=generator)[0]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(rows[batch] @ weight.T + bias, truth[batch]).backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(heads.weight[place], weight.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(heads.bias[place], bias.detach(), rtol=1e-4, atol=1e-5)


def test_it_tells_classes_apart_and_is_the_same_each_time() -> None:
    features, labels = made(80)
    first, again, other = (fit_ensemble(features, labels, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.weight, again.weight)
    assert not np.array_equal(first.weight, other.weight)
    held_out, truth = made(200, seed=5)
    assert (first(held_out) == truth).mean() > 0.85


def test_a_single_image_of_each_class_is_enough() -> None:
    features, labels = made(CLASSES)
    assert (fit_ensemble(features, labels + 2, 0)(features) == labels + 2).all()


def test_no_kind_is_taken_in_that_makes_it_worse() -> None:
    """One kind is right, all others wrong: it stays alone."""
    truth = torch.arange(20) % CLASSES
    right = torch.nn.functional.one_hot(truth, CLASSES).float()
    logits = torch.stack([5 * right if head // SEEDS == 4 else -5 * right for head in range(len(KINDS) * SEEDS)])
    assert chosen(logits, truth) == [KINDS[4]]
    assert Heads(torch.zeros(2, CLASSES, 3), torch.ones(2, CLASSES)).logits(torch.zeros(5, 3)).shape == (2, 5, CLASSES)
