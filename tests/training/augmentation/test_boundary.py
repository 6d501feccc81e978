"""Training on augmented activations: the same bits cached and computed anew, and refused where it means nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Folder, Job, equal, losses, record, run, weights
from transformers import AutoImageProcessor, ResNetForImageClassification
from versions import needs

from hfft.arguments.augmentation import parse_frofa
from hfft.plugin.contract import TokenLayout
from hfft.split.halves import Suffix
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.augmentation.boundary import BoundaryAugmentation, Wanted
from hfft.training.augmentation.mixing import Mixing
from hfft.training.augmentation.rows import AugmentedRows

MIXED = ("--mixup", 0.4, "--cutmix", 1.0, "--frofa", "brightness,contrast,posterise")


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("resnet", MIXED),
        ("vit", (*MIXED, "--augment", "jitter", "--views", 2)),
        ("swin", ("--frofa", "contrast:1")),
        ("resnet", ("--policy", "lp_ft", "--mixup", 0.4, "--frofa", "brightness")),
    ],
)
def test_cached_and_uncached_runs_have_the_same_bits(job: Job, kind: str, flags: tuple[Any, ...]) -> None:
    cached, uncached = job(kind, "cached", *flags), job(kind, "uncached", "--cache", "off", *flags)
    assert losses(cached) == losses(uncached)
    assert equal(weights(cached), weights(uncached))
    assert all(math.isfinite(loss) for loss in losses(cached))


@pytest.mark.parametrize("flags", [MIXED[:2], MIXED[2:4], MIXED[4:]])
def test_each_changes_the_training_and_is_on_record(job: Job, flags: tuple[Any, ...]) -> None:
    plain, changed = job("vit", "plain"), job("vit", "changed", *flags)
    assert losses(changed)[0] != losses(plain)[0]
    name, value = flags[0].removeprefix("--"), flags[1]
    assert record(changed)["arguments"][name] == value


@pytest.mark.parametrize("flags", [MIXED[:2], MIXED[2:4]])
def test_pixels_are_mixed_where_the_model_cannot_be_cut(job: Job, flags: tuple[Any, ...]) -> None:
    plain, mixed = job("resnet", "plain", "--policy", "full"), job("resnet", "full", "--policy", "full", *flags)
    assert losses(mixed)[0] != losses(plain)[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--policy", "head", "--cutmix", 1), "--cutmix needs activations that lie on the image as one grid; in phase"),
        (("--policy", "full", "--frofa", "brightness"), "--frofa changes what the frozen part gives"),
        pytest.param(
            ("--flip_maps", "true"),
            "differ from those of 8 flipped training images by",
            marks=needs("transformers", "5.24"),  # older ones draw the weights anew in another order
        ),
        (("--flip_maps", "true", "--augment", "flip"), "give one of both"),
        (
            ("--cache", "off", "--mixup", 0.2, "--torch_compile_backend", "eager", "--torch_compile", "true"),
            "--torch_compile compiles whole forwards where activations are not cached (switched off)",
        ),
        (("--frofa", "sharpness"), "--frofa takes none"),
        (("--cutmix", -1), "--cutmix must not be below 0"),
    ],
)
def test_refusals(
    image_folder: Folder,
    pretrained: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[Any, ...],
    said: str,
) -> None:
    given = ("--model_name_or_path", pretrained("resnet"), "--train_dir", image_folder())
    assert run(*given, "--output_dir", tmp_path / "o", *flags) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def symmetric(folder: Path) -> None:
    """Make a ResNet's kernels symmetric, and images of 33 pixels, so that each stride keeps the middle."""
    model = ResNetForImageClassification.from_pretrained(folder)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.add_(module.weight.data.flip(-1)).div_(2)
    model.save_pretrained(folder)
    assert AutoImageProcessor.from_pretrained(folder) is not None


def test_flipped_maps_are_those_of_flipped_images_where_kernels_are_symmetric(
    job: Job, pretrained: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    symmetric(pretrained("resnet"))
    flags = ("--image_size", 33, "--flip_maps", "true")
    flipped = job("resnet", "flipped", *flags)
    assert "differ from those of 8 flipped training images by 0.00 of their norm" in capsys.readouterr().out
    uncached = job("resnet", "uncached", *flags, "--cache", "off")
    assert equal(weights(flipped), weights(uncached))
    plain = job("resnet", "plain", "--image_size", 33)
    assert losses(plain) != losses(flipped)


class Tokens:
    """Six images of a class token and a grid of two by two, in whole batches."""

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        values = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))
        return {"leaf": values[rows], "labels": torch.tensor(rows) % 3}


@pytest.mark.parametrize("mixing", [Mixing(0.4), Mixing(cutmix=1.0), Mixing(0.4, 1.0)])
def test_the_parts_of_a_step_are_what_the_whole_of_it_is(mixing: Mixing) -> None:
    """Each process has a part of a step's images, and so has each batch whose gradients are accumulated."""
    rows = AugmentedRows(Tokens(), [f"{number:064x}" for number in range(6)], 3, mixes=True)
    wanted = Wanted(parse_frofa("brightness,posterise"), mixing, flips=True)
    augment = BoundaryAugmentation(wanted, SINGLE_LABEL, 3, TokenLayout((2, 2), 1), seed=3, before=5)
    for step in range(8):
        _, whole = augment(Suffix(), rows.__getitems__(list(range(6))), step)
        parts = [augment(Suffix(), rows.__getitems__(part), step)[1] for part in ([0, 1, 2], [3, 4, 5])]
        for name in ("leaf", "labels"):
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
