"""MixUp and CutMix: labels are shared as images are, on maps and on tokens."""

from __future__ import annotations

import numpy as np
import torch

from hfft.split.grid import Grid
from hfft.training.augmentation.mixing import Mix, Mixing

MAP, LAST, TOKENS = Grid(4, 6), Grid(4, 6, channels_last=True), Grid(4, 6, channels_last=True, tokens=True, prefix=2)
SHAPES = {MAP: (3, 5, 4, 6), LAST: (3, 4, 6, 5), TOKENS: (3, 26, 5)}


def test_mixup_blends_images_and_labels_alike() -> None:
    mix = Mixing(mixup=0.4).draw(7, MAP)
    assert mix.box is None
    assert 0 < mix.share < 1
    for shape in SHAPES.values():
        mixed = mix.values(torch.ones(shape), torch.zeros(shape), MAP)
        torch.testing.assert_close(mixed, torch.full(shape, mix.share))
    torch.testing.assert_close(mix.labels(torch.eye(2), torch.zeros(2, 2)), torch.eye(2) * mix.share)
    whole = torch.tensor([3, 4])
    assert mix.values(whole, whole + 1, None) is whole


def test_cutmix_gives_each_image_the_share_of_the_label_that_it_has_of_the_grid() -> None:
    for seed in range(60):
        for grid, shape in SHAPES.items():
            mix = Mixing(cutmix=1.0).draw(seed, grid)
            own = torch.ones(shape)
            mixed = mix.values(own, torch.zeros(shape), grid)
            before, placed = grid.apart(mixed)
            assert set(placed.unique().tolist()) <= {0.0, 1.0}
            assert abs(float(placed.mean()) - mix.share) < 1e-6
            assert (placed == placed[:1, :1]).all()  # the same place of each image and channel
            if before is not None:
                torch.testing.assert_close(before, torch.full_like(before, mix.share))
            assert own.all()  # what was given is left alone


def test_boxes_lie_where_their_seed_says_on_any_layout() -> None:
    assert len({Mixing(cutmix=1.0).draw(3, grid) for grid in SHAPES}) == 1
    assert len({Mixing(cutmix=1.0).draw(seed, MAP) for seed in range(40)}) > 30


def test_both_take_turns_and_shares_follow_their_distribution() -> None:
    both = [Mixing(0.2, 1.0).draw(seed, Grid(50, 50)) for seed in range(600)]
    cuts = [mix for mix in both if mix.box is not None]
    assert 240 < len(cuts) < 360
    blends = np.array([mix.share for mix in both if mix.box is None])
    assert ((blends < 0.1) | (blends > 0.9)).mean() > 0.5  # Beta(0.2, 0.2) is mostly near its ends
    # A box that sticks out is cut off: the expected area is that of (e - e**2 / 4)**2 with e**2 even between 0 and 1.
    assert abs(float(np.mean([mix.share for mix in cuts])) - (1 - 0.3208)) < 0.06


def test_nothing_asked_for_is_nothing() -> None:
    assert not Mixing()
    assert Mix(0.5).box is None
