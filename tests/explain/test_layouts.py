"""Where a part's output is laid on the image, its cells lie where the pixels do, in every architecture."""

from __future__ import annotations

import pytest
import torch
from small_models import HEADLESS, SMALL, small_headed, small_model
from timm_models import SMALLEST, small_timm
from torch import Tensor
from transformers import PreTrainedModel

from hfft.explain.forward_pass import part_outputs
from hfft.explain.gradcam import feature_maps
from hfft.planning.registry import find_anatomy

NO_PICTURE = {"imagegpt", "siglip2", "siglip2_vision_model"}
"""They are given clusters, or patches in rows."""
NOWHERE = {"perceiver", "efficientvim"}
"""Their latents and states lie nowhere; these counts of them look like squares."""
EVERYWHERE = {"levit"}
"""Nothing but attention passes its subsampling: what moves says nothing of where."""
ROWS = (
    *("beit", "cait", "convit", "coat", "crossvit", "deit", "efficientformer", "eva", "hiera", "mlp_mixer", "mvitv2"),
    *("tnt", "twins", "vision_transformer", "vision_transformer_relpos", "vitamin", "volo", "xcit"),
)
"""Families whose parts give out rows of tokens; the others take a minute."""
SIDE_TABLES = {
    "beit": (1, 17, 16),
    "data2vec-vision": (1, 17, 16),
    "dinov3_vit": (1, 19, 16),
    "mlcd_vision_model": (1, 17, 16),
    "yolos": (1, 20, 16),
}
"""Stems that make positions beside the embedded patches, and what the first block is given."""
QUARTERS = ((0, 0), (0, 3), (3, 0), (3, 3), (1, 2))
"""Rows and columns, in quarters of the side, of what is changed."""


@pytest.mark.parametrize("model_type", sorted(SMALL.keys() - NO_PICTURE - NOWHERE - EVERYWHERE))
def test_cells_of_transformers_lie_where_the_pixels_do(model_type: str) -> None:
    check(*small_model(model_type))


@pytest.mark.parametrize("model_type", sorted(HEADLESS.keys() - NO_PICTURE))
def test_cells_of_encoders_lie_where_the_pixels_do(model_type: str) -> None:
    check(*small_headed(model_type))


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in ROWS else pytest.mark.slow)
        for family in sorted(SMALLEST.keys() - NOWHERE - EVERYWHERE)
    ],
)
def test_cells_of_timm_lie_where_the_pixels_do(family: str) -> None:
    check(*small_timm(family))


@pytest.mark.parametrize(("model_type", "shape"), SIDE_TABLES.items())
def test_a_stem_hands_on_patches_and_no_table_of_positions(model_type: str, shape: tuple[int, ...]) -> None:
    model, inputs = small_model(model_type) if model_type in SMALL else small_headed(model_type)
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    stem = part_outputs(model, find_anatomy(model), one)[0]["stem"]
    assert stem is not None
    assert tuple(stem.shape) == shape


@pytest.mark.parametrize(("family", "part", "ndim"), [("volo", "stem", 4), ("xcit", "stem", 3), ("coat", "block 3", 3)])
def test_what_runs_later_is_not_what_a_part_hands_on(family: str, part: str, ndim: int) -> None:
    """VOLO's stem has a second head, XCiT's a table of positions; CoaT's last block runs modules of those before it."""
    model, inputs = small_timm(family)
    output = part_outputs(model, find_anatomy(model), inputs)[0][part]
    assert output is not None
    assert (len(output), output.ndim) == (2, ndim)
    assert not torch.equal(output[0], output[1])


def check(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """A change of some pixels moves the tokens that lie there as much as others, or more where attention is wide."""
    anatomy, pixels = find_anatomy(model), inputs["pixel_values"][:1]
    quarter = pixels.shape[-1] // 4
    changed = pixels.repeat(1 + len(QUARTERS), 1, 1, 1)
    noise = torch.randn(3, quarter, quarter, generator=torch.Generator().manual_seed(1)) / 2
    for image, place in zip(changed[1:], QUARTERS, strict=True):
        top, left = (quarter * number for number in place)
        image[:, top : top + quarter, left : left + quarter] += noise
    for part, output in part_outputs(model, anatomy, {"pixel_values": changed})[0].items():
        if output is None or output.ndim != 3 or len(output) != len(changed):
            continue  # feature maps lie as convolutions leave them
        maps = [feature_maps(each[None], anatomy.tokens) for each in output]
        if maps[0] is None or min(maps[0].shape[1:]) < 2:
            continue
        for each, place in zip(maps[1:], QUARTERS, strict=True):
            moved = (each - maps[0]).abs().mean(0)  # type: ignore[operator]
            near = _near(moved.shape, place)
            assert moved[near].mean() > 0.9 * moved[~near].mean(), (part, tuple(output.shape), place)


def _near(shape: torch.Size, place: tuple[int, int]) -> Tensor:
    """Return the cells of a grid that lie within a quarter of both sides, or else those next to it."""
    away = [
        ((torch.arange(count) + 0.5) * 4 / count - number - 0.5).abs()
        for count, number in zip(shape, place, strict=True)
    ]
    far = torch.maximum(away[0][:, None], away[1][None])
    return far <= far.min().clamp_min(0.5) + 1e-3
