"""How activations are kept: eight bits with a scale for each channel of each image."""

from __future__ import annotations

import pytest
import torch

from hfft.cache.rows import Row, make_rows
from hfft.errors import ModelError
from hfft.split.split import Leaf

SHAPES = [((6, 5, 4), True), ((6, 5, 4), False), ((7, 6), False), ((6,), False)]


def row(shape: tuple[int, ...], channels_last: bool = False) -> Row:
    return Row(Leaf("x", shape, torch.float32), torch.int8, channels_last)


def spread(shape: tuple[int, ...], count: int = 3) -> torch.Tensor:
    """Return values whose channels differ a hundredfold in size, as those of real networks do."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, *shape, generator=generator)
    sizes = torch.logspace(-1, 1, 6)
    return values * (sizes[:, None, None] if len(shape) == 3 else sizes)


@pytest.mark.parametrize(("shape", "channels_last"), SHAPES)
def test_each_value_is_off_by_half_a_step_of_its_channel_at_most(shape: tuple[int, ...], channels_last: bool) -> None:
    values, kept = spread(shape), row(shape, channels_last)
    packed = kept.pack(values)
    assert packed.dtype == torch.int8
    assert packed.shape == (3, kept.bytes_per_image)
    found = kept.unpack(packed)
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    within = {3: (2, 3), 2: (1,), 1: (1,)}[len(shape)]  # the axes that share a scale
    steps = values.abs().amax(within, keepdim=True) / 127
    assert ((found - values).abs() <= 0.501 * steps).all()
    assert (found != values).any()


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_map_that_the_model_computes_channels_last_has_a_scale_for_each_channel(channels_last: bool) -> None:
    (kept,) = make_rows([Leaf("x", (5, 5, 6), torch.float32)], "int8", channels_last)
    values = torch.randn(3, 5, 5, 6, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, 6)
    steps = values.abs().amax((1, 2), keepdim=True) / 127
    assert ((kept.kept(values) - values).abs() <= 0.501 * steps).all()


def test_a_row_takes_a_quarter_and_its_scales() -> None:
    assert row((512, 7, 7), True).bytes_per_image == 512 * 49 + 4 * 512
    assert row((197, 384)).bytes_per_image == 197 * 384 + 4 * 384
    assert row((384,)).bytes_per_image == 384 + 4


@pytest.mark.parametrize(("shape", "channels_last"), SHAPES)
def test_a_row_depends_on_its_own_image_alone(shape: tuple[int, ...], channels_last: bool) -> None:
    values, kept = spread(shape), row(shape, channels_last)
    assert torch.equal(kept.pack(values)[1:2], kept.pack(values[1:2]))
    assert torch.equal(kept.pack(values)[1:2], kept.pack(torch.cat([1000 * values[:1], values[1:2]]))[1:])


@pytest.mark.parametrize(("shape", "channels_last"), SHAPES)
def test_a_lone_row_is_read_as_among_others(shape: tuple[int, ...], channels_last: bool) -> None:
    kept = row(shape, channels_last)
    packed = kept.pack(spread(shape))
    for image in range(len(packed)):
        assert torch.equal(kept.unpack(packed[image : image + 1]), kept.unpack(packed)[image : image + 1])


def test_numbers_too_small_for_a_scale_stay_small() -> None:
    values = torch.tensor([[1e-37, 1e-38, 1e-40]])
    assert ((row((3,)).kept(values) - values).abs() <= torch.finfo(torch.float32).tiny).all()


def test_zeros_stay_zeros() -> None:
    values = torch.zeros(2, 6, 5, 4)
    assert torch.equal(row((6, 5, 4)).kept(values), values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    values = spread((6, 5, 4))
    values[1, 2, 3, 0] = value
    with pytest.raises(ModelError, match="x are not finite; choose another --cache_dtype than int8"):
        row((6, 5, 4)).pack(values)


def test_numbers_that_float16_cannot_hold_are_refused() -> None:
    narrow = Row(Leaf("x", (2,), torch.float32), torch.float16, channels_last=False)
    infinite = torch.tensor([[float("inf"), 65504.0]])
    assert torch.equal(narrow.kept(infinite).float(), infinite)  # as the model computed it
    with pytest.raises(ModelError, match="x are too large for --cache_dtype float16; choose bfloat16"):
        narrow.pack(torch.tensor([[1e5, 1.0]]))
