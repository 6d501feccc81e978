"""Finished models and whole runs, small enough for every test to make its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from small_models import SMALL
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hfft.arguments import DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.jobs.finetune import finetune
from hfft.jobs.run import Run
from hfft.training.setup import Settings

torch.set_num_threads(1)  # threads cost more than they bring on models this small

LABELS = ("blue", "green", "red")


def make_images(folder: Path, labels: tuple[str, ...] = LABELS, count: int = 6) -> Path:
    """Write one folder per class with noisy images of its colour, the same ones for the same call."""
    generator = np.random.default_rng(0)
    colours = {"red": 0, "green": 1, "blue": 2}
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 120, (40, 40, 3), np.uint8)
            pixels[..., colours.get(label, 0)] += 120
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def make_model(folder: Path, labels: tuple[str, ...] = LABELS, seed: int = 0, kind: str = "vit") -> Path:
    """Write a ViT or a ResNet of a few thousand random weights, as ``save_pretrained`` writes it."""
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    known: dict[str, Any] = {"id2label": names, "label2id": {label: index for index, label in names.items()}}
    config, model = {
        "vit": (ViTConfig, ViTForImageClassification),
        "resnet": (ResNetConfig, ResNetForImageClassification),
    }[kind]
    model(config(**SMALL[kind], **known)).save_pretrained(folder)
    side = 32 if kind == "vit" else 64
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def run_finetune(
    base: Path | None,
    images: Path,
    output: Path,
    policy: str = "last_block",
    test: Path | None = None,
    **training: Any,
) -> Run:
    """Fine-tune for one epoch, without a word and without figures; without a base, the embedded model."""
    options: dict[str, Any] = {"num_train_epochs": 1.0, "use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    options["figures"] = False
    options["per_device_train_batch_size"] = 4  # the rate rises from 0: a single step would change nothing
    settings = Settings(
        ModelArguments(model_name_or_path=None if base is None else str(base)),
        DataArguments(train_dir=str(images), validation_dir=str(images), test_dir=str(test) if test else None),
        PolicyArguments(policy=policy),
        training=FinetuneArguments(output_dir=str(output), **(options | training)),
    )
    settings.cache.cache = "off"
    return finetune(settings, say=lambda line: None)
