"""Brightness, contrast and posterise of activations, each channel by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hfft.arguments.augmentation import BITS, FeatureStep, parse_frofa
from hfft.errors import ArgumentError
from hfft.training.augmentation.frofa import augment_features

MAPS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 5


def given(*numbers: float) -> object:
    """Draw these for the channels of each of two images."""
    return lambda count: torch.tensor(numbers).expand(2, count)


def change(values: Tensor, name: str, strength: float, *numbers: float) -> Tensor:
    return augment_features(values, (FeatureStep(name, strength),), given(*numbers))  # type: ignore[arg-type]


def test_brightness_moves_each_channel_by_a_share_of_its_own_range() -> None:
    changed = change(MAPS, "brightness", 0.4, 1.0, 0.5, 0.0)
    width = MAPS.amax((2, 3)) - MAPS.amin((2, 3))
    moved = (changed - MAPS).mean((2, 3))
    torch.testing.assert_close(moved, width * torch.tensor([0.4, 0.0, -0.4]))


def test_contrast_stretches_each_channel_around_its_mean() -> None:
    changed = change(MAPS, "contrast", 0.5, 1.0, 0.5, 0.0)
    torch.testing.assert_close(changed.mean((2, 3)), MAPS.mean((2, 3)))
    factors = changed.std((2, 3)) / MAPS.std((2, 3))
    torch.testing.assert_close(factors, torch.tensor([1.5, 1.0, 0.5]).expand(2, 3))


def test_posterise_leaves_as_many_values_as_its_bits_have_and_both_ends() -> None:
    values = torch.rand(2, 3, 40, 40) * 7 - 3
    changed = change(values, "posterise", 2, 0.0, 1 / 6, 0.999)
    counts = [len(changed[0, channel].unique()) for channel in range(3)]
    assert counts[:2] == [4, 8]
    assert 64 < counts[2] <= 2 ** (BITS - 1)
    torch.testing.assert_close(changed.amin((2, 3)), values.amin((2, 3)))
    torch.testing.assert_close(changed.amax((2, 3)), values.amax((2, 3)))


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_a_pooled_vector_is_changed_within_its_own_range(name: str) -> None:
    vectors = torch.randn(2, 3) * 3
    changed = change(vectors, name, 0.2, 0.0, 0.5, 1.0)
    width = vectors.amax(1) - vectors.amin(1)
    assert torch.allclose(changed[:, 1], vectors[:, 1], atol=1e-5)
    assert not torch.allclose(changed[:, 0], vectors[:, 0])
    assert ((changed - vectors).abs().amax(1) <= 0.2 * width + 1e-5).all()


def test_nothing_but_numbers_of_the_same_kind_comes_out() -> None:
    flat = torch.full((2, 3, 4, 4), 1.5, dtype=torch.bfloat16)
    for step in parse_frofa("brightness,contrast,posterise"):
        changed = augment_features(flat, (step,), given(0.1, 0.2, 0.3))  # type: ignore[arg-type]
        assert torch.equal(changed, flat)  # a channel without a range has nothing to change


def test_steps_are_read_in_order_with_their_strengths() -> None:
    assert parse_frofa("none") == ()
    assert parse_frofa("posterise:5, brightness") == (FeatureStep("posterise", 5), FeatureStep("brightness", 0.5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sharpness", "not 'sharpness'"),
        ("", "not ''"),
        ("none,brightness", "not 'none'"),
        ("brightness:much", "'much' is not a number"),
        ("brightness:nan", "brightness lies above 0"),
        ("contrast:1.5", "is at most 1"),
        ("posterise:2.5", "a whole number from 1 to 7"),
        ("posterise:8", "a whole number from 1 to 7"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        parse_frofa(text)
