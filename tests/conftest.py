"""Shared by all tests: no network, few threads, small images and small pretrained models in folders."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Threads cost small models more than they bring, above all where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HFFT_ALL_CORES", "0")
# Exact bits are held against a CPU's, which every machine has; `pytest -m gpu` runs what a GPU adds.
if "PYTEST_XDIST_WORKER" not in os.environ and "gpu" not in sys.argv:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import torch
from own_code import modules_in
from PIL import Image
from runs import Folder, Job, run
from transformers import (
    BaseImageProcessor,
    ConvNextConfig,
    ConvNextForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hfft.machine import heap_set_aside
from hfft.planning import policies
from hfft.planning.policies import installed_policies
from hfft.plugin.contract import Anatomy, PhaseSpec

CLASSES = ("blue", "green", "red")
SIZE = 32


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests start processes, which take longest, so that none is left alone at the end."""
    long = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True, scope="session")
def _imported_for_good() -> Iterator[None]:
    """Take what is imported out of garbage collection: each whole collection walks through all of it."""
    with heap_set_aside():
        yield


@pytest.fixture(autouse=True)
def _imported_meanwhile() -> None:
    """And what the test before has imported, but not what it left behind."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has an activation cache of its own."""
    monkeypatch.setenv("HFFT_CACHE", str(tmp_path / "activations"))
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Code that models bring along is copied into a folder of the test's own, and forgotten after it."""
    with modules_in(tmp_path_factory.mktemp("modules")):
        yield


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of folders with one folder of small images per class."""

    def make(name: str = "images", per_class: int = 8, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
        random = np.random.default_rng(seed)
        for channel, label in enumerate(classes):
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for number in range(per_class):
                pixels = random.integers(0, 120, (40, 36, 3), dtype=np.uint8)
                pixels[..., channel % 3] += 100
                Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        return tmp_path / name

    return make


def _resnet() -> PreTrainedModel:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
    return ResNetForImageClassification(config)


def _vit() -> PreTrainedModel:
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=SIZE,
        patch_size=8,
        hidden_dropout_prob=0.1,
    )
    return ViTForImageClassification(config)


def _swin() -> PreTrainedModel:
    config = SwinConfig(image_size=SIZE, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=4)
    return SwinForImageClassification(config)


def _timm(architecture: str = "resnet18") -> PreTrainedModel:
    config = TimmWrapperConfig(architecture=architecture)
    config.pretrained_cfg = {"input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    return TimmWrapperForImageClassification(config)


def _convnext() -> PreTrainedModel:
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, image_size=SIZE)
    return ConvNextForImageClassification(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "resnet": _resnet,
    "vit": _vit,
    "swin": _swin,
    "convnext": _convnext,
    "timm": _timm,
    "timm-convnext": lambda: _timm("test_convnext"),
}


def processor_of(model: PreTrainedModel) -> BaseImageProcessor:
    """Return an image processor that gives inputs of 32 x 32 pixels."""
    if isinstance(model, TimmWrapperForImageClassification):
        return TimmWrapperImageProcessor(pretrained_cfg=model.config.pretrained_cfg)
    return ViTImageProcessor(size={"height": SIZE, "width": SIZE})


@pytest.fixture
def pretrained(tmp_path: Path) -> Callable[[str], Path]:
    """Return a maker of folders that hold a small seeded model and its image processor."""

    def make(kind: str) -> Path:
        torch.manual_seed(0)
        model = MODELS[kind]()
        folder = tmp_path / f"pretrained-{kind}"
        model.save_pretrained(folder)
        processor_of(model).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def job(image_folder: Folder, pretrained: Folder, tmp_path: Path) -> Job:
    """Return a runner of small jobs, all on the same images."""
    images = image_folder()

    def start(kind: str, name: str, *flags: Any) -> Path:
        model = tmp_path / f"pretrained-{kind}"
        if not model.exists():
            pretrained(kind)
        folder = tmp_path / name
        small = ("--per_device_train_batch_size", 6, "--num_train_epochs", 2, "--logging_strategy", "steps")
        flags = ("--model_name_or_path", model, "--train_dir", images, "--output_dir", folder, *small, *flags)
        assert run("--logging_steps", 1, "--train_val_split", 0.25, *flags) == 0
        return folder

    return start


def outside(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """A policy of another package: the last block, then the head alone."""
    return (
        PhaseSpec("block", frozenset({f"block {len(anatomy.blocks)}", "head"}), epochs - 1),
        PhaseSpec("polish", frozenset({"head"}), 1),
    )


def nonsense(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    return (PhaseSpec("nonsense", frozenset({"tail"}), epochs),)


class Point:
    """An entry point of another package."""

    dist = None

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self) -> Any:
        return {"outside": outside, "nonsense": nonsense}[self.name]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {**installed_policies(), **{name: Point(name) for name in ("outside", "nonsense", "gone")}}
    monkeypatch.setattr(policies, "installed_policies", lambda: found)
