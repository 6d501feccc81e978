"""Seconds with and without the activation cache: plain Trainer, hfft empty and filled, and the floor.

``python scripts/bench_cache.py [--models resnet18 vit_s16 ...] [--policies head last_block] [--epochs 5]``
Each model gets random weights and the same generated JPEGs of 500x375 pixels; four ways of training it run
one after the other in this process:

* plain: ``transformers.Trainer`` with the same frozen set, batch size, epochs and evaluation after each epoch;
* empty: hfft with nothing cached;
* filled: hfft again, which finds its activations on disk;
* floor: a bare PyTorch loop over the same suffix, its activations in memory already.

It prints a Markdown table; --json docs/measured/cache.json is what `benchmarks.py` reads.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from _plain import plain_trainer
from PIL import Image
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.cache.fill import CachedDataset
from hfft.jobs.finetune import set_up
from hfft.machine import cores
from hfft.models.forward import logits_of
from hfft.training.phases import train_phases
from hfft.training.progress import Progress
from hfft.training.setup import Settings, Setup
from hfft.training.trainer import FreezeTrainer

CLASSES = 10
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "resnet18": lambda: ResNetForImageClassification(
        ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    ),
    "resnet50": lambda: ResNetForImageClassification(ResNetConfig()),
    "vit_s16": lambda: ViTForImageClassification(
        ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    ),
    "vit_b16": lambda: ViTForImageClassification(ViTConfig()),
    "convnext_t": lambda: ConvNextForImageClassification(ConvNextConfig()),
    "swin_t": lambda: SwinForImageClassification(SwinConfig()),
}
TITLES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vit_s16": "ViT-S/16",
    "vit_b16": "ViT-B/16",
    "convnext_t": "ConvNeXt-T",
    "swin_t": "Swin-T",
}


@dataclass
class Measurement:
    """What one way of training took, in seconds and bytes."""

    seconds: float
    wait: float = 0.0
    prefix: float = 0.0
    suffix: float = 0.0
    peak_bytes: int = 0
    cache_bytes: int = 0


def main() -> None:
    """Measure every model under every policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--policies", nargs="+", default=["head", "last_block"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=320, help="training images; validation takes half as many")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--memory_format", default="auto", choices=["auto", "contiguous", "channels_last"])
    parser.add_argument("--skip_plain", action="store_true", help="measure hfft and the floor alone")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows, runs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_images(folder / "train", options.images)
        make_images(folder / "validation", options.images // 2)
        for name in options.models:
            save_model(MODELS[name](), folder / name)
            for policy in options.policies:
                measured = measure(folder, name, policy, options)
                rows.append(row(name, policy, measured))
                runs.append(run_of(name, policy, measured, options))
                print(rows[-1], flush=True)
    print("\n" + table(rows, options))
    if options.json:
        text = json.dumps({"conditions": conditions(options), "runs": runs}, indent=1)
        options.json.write_text(f"{text}\n", encoding="utf-8")


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs share."""
    machine = platform.processor() or platform.machine()
    return {
        "images": "generated JPEGs of 500x375, half as many for validation as for training",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores()} cores, {machine}",
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "batch_size": options.batch_size,
        "memory_format": options.memory_format,
        "script": "scripts/bench_cache.py",
    }


def run_of(name: str, policy: str, measured: dict[str, Measurement], options: argparse.Namespace) -> dict[str, Any]:
    """Return what the page tells of one model under one policy."""
    return {
        "model": TITLES[name],
        "policy": policy,
        "images": options.images,
        "epochs": options.epochs,
        **{f"{way}_seconds": round(each.seconds, 1) for way, each in measured.items()},
        "cache_mb": round(measured["empty"].cache_bytes / 1e6, 1),
        "peak_memory_gb": round(max(each.peak_bytes for each in measured.values()) / 1e9, 2),
    }


def measure(folder: Path, name: str, policy: str, options: argparse.Namespace) -> dict[str, Measurement]:
    """Train one model in every way, one after the other."""
    settings = make_settings(folder, name, policy, options)
    measured = {}
    if not options.skip_plain:
        measured["plain"] = plain(settings)
    measured["empty"], setup, trainer = with_hfft(settings)
    measured["floor"] = floor(setup, trainer)
    del setup, trainer
    measured["filled"], *_ = with_hfft(settings)
    shutil.rmtree(folder / "cache")
    return measured


def make_settings(folder: Path, name: str, policy: str, options: argparse.Namespace) -> Settings:
    """Return the settings that all ways of training share."""
    training = FinetuneArguments(
        output_dir=str(folder / "out"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        disable_tqdm=True,
        keep="last",
        baselines="none",
    )
    return Settings(
        ModelArguments(model_name_or_path=str(folder / name)),
        DataArguments(train_dir=str(folder / "train"), validation_dir=str(folder / "validation")),
        PolicyArguments(policy=policy),
        CacheArguments(cache_dir=str(folder / "cache"), memory_format=options.memory_format),
        training,
    )


def plain(settings: Settings) -> Measurement:
    """Train with transformers.Trainer: the frozen parameters need no gradient, and that is all."""
    trainer = plain_trainer(set_up(settings))
    with timed() as measurement:
        trainer.train()
    return measurement


def with_hfft(settings: Settings) -> tuple[Measurement, Setup, FreezeTrainer]:
    """Train with hfft: everything from the loaded model on counts."""
    settings = replace(settings)
    setup, progress = set_up(settings), Progress()
    with timed() as measurement:
        trainer = train_phases(setup, progress, lambda line: None)
    (result,) = progress.phases
    measurement.wait, measurement.prefix = result.cache.wait_seconds, result.cache.prefix_seconds
    measurement.suffix = result.train_metrics["train_runtime"]
    measurement.cache_bytes = result.cache.bytes
    return measurement, setup, trainer


def floor(setup: Setup, trainer: FreezeTrainer) -> Measurement:
    """Train the suffix alone in a bare loop, on activations in memory."""
    model, suffix, arguments = setup.model, trainer.suffix, setup.settings.training
    train, validation = trainer.train_dataset, trainer.eval_dataset
    assert isinstance(train, CachedDataset)
    assert isinstance(validation, CachedDataset)
    sets = [data.__getitems__(list(range(len(data)))) for data in (train, validation)]
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=arguments.learning_rate, fused=True
    )
    size, device = arguments.per_device_train_batch_size, arguments.device

    def loss_of(rows: torch.Tensor, data: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = {key: value[rows].to(device) for key, value in data.items()}
        labels = batch.pop("labels")
        with suffix.inputs(model, batch) as inputs:
            return F.cross_entropy(logits_of(model(**inputs)).float(), labels)

    with timed() as measurement:
        for _ in range(int(arguments.num_train_epochs)):
            model.train()
            for rows in torch.randperm(len(train)).split(size):
                loss_of(rows, sets[0]).backward()
                optimizer.step()
                optimizer.zero_grad()
            model.eval()
            with torch.no_grad():
                for rows in torch.arange(len(validation)).split(size):
                    loss_of(rows, sets[1])
    return measurement


@contextmanager
def timed() -> Iterator[Measurement]:
    """Measure wall seconds and the peak of resident memory."""
    gc.collect()
    process, stop, measurement = psutil.Process(), threading.Event(), Measurement(0.0)

    def watch() -> None:
        while not stop.wait(0.05):
            measurement.peak_bytes = max(measurement.peak_bytes, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    try:
        yield measurement
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        measurement.seconds = time.perf_counter() - began
        stop.set()
        watcher.join()


def make_images(folder: Path, count: int) -> None:
    """Write JPEGs of 500x375 pixels, smooth enough to compress as photos do, in folders of classes, on all cores."""
    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True)
    with ProcessPoolExecutor(cores()) as pool:
        list(pool.map(partial(_write_image, folder), range(count), chunksize=64))


def _write_image(folder: Path, number: int) -> None:
    noise = np.random.default_rng([number, len(folder.name)]).integers(0, 256, (47, 63, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
    image.save(folder / f"class{number % CLASSES}" / f"{number:06d}.jpg", quality=90)


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Save a model of random weights with an image processor for 224 x 224 pixels."""
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)


def row(name: str, policy: str, measured: dict[str, Measurement]) -> str:
    """One line of the table."""
    empty, filled, least = measured["empty"], measured["filled"], measured["floor"]
    cells: list[Any] = [name, policy]
    if "plain" in measured:
        base = measured["plain"].seconds
        cells += [f"{base:.1f}", f"{empty.seconds:.1f}", f"{filled.seconds:.1f}", f"{least.seconds:.1f}"]
        cells += [f"{base / empty.seconds:.1f}x", f"{base / filled.seconds:.1f}x"]
    else:
        cells += ["", f"{empty.seconds:.1f}", f"{filled.seconds:.1f}", f"{least.seconds:.1f}", "", ""]
    pass_seconds = empty.wait + empty.prefix
    cells += [f"{empty.seconds / (least.seconds + pass_seconds):.2f}", f"{pass_seconds:.1f}"]
    cells += [f"{empty.cache_bytes / 1e6:.1f}", f"{max(m.peak_bytes for m in measured.values()) / 1e9:.2f}"]
    return "| " + " | ".join(cells) + " |"


def table(rows: list[str], options: argparse.Namespace) -> str:
    """The whole table in Markdown."""
    header = (
        "| Model | Policy | Plain, s | hfft empty, s | hfft filled, s | Floor, s | Empty | Filled "
        "| Over floor + prefix | Prefix pass, s | Cache, MB | Peak memory, GB |"
    )
    note = f"{options.images} training and {options.images // 2} validation images, {options.epochs} epochs"
    return "\n".join([f"{note}, batches of {options.batch_size}:", "", header, "|" + " --- |" * 12, *rows])


if __name__ == "__main__":
    main()
