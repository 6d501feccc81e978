"""The embedded default in hfft and in what one could take instead: accuracy over seeds, and seconds.

``python scripts/bench_peers.py [--seeds 1 2 3] [--image_size 224] [--ways hfft trainer ...]``
Every way starts from the same backbone and sees the same images at the same resolution for the same epochs:

* hfft: its default, an empty activation cache included in the seconds;
* hfft_bf16: the same with ``--bf16``;
* random: hfft on the same architecture with random weights;
* trainer: ``transformers.Trainer`` with the last block trainable, its default learning rate (5e-5);
* trainer_tuned: the same with hfft's learning rate;
* fastai: a ``Learner`` frozen to the last block, ``fit_one_cycle`` (needs the dependency group ``peers``).

Accuracy is that of the last epoch on the validation images; the test images are not touched.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from _plain import plain_trainer
from torch import nn
from torch.utils.data import DataLoader

from hfft.arguments import CacheArguments, FinetuneArguments, ModelArguments
from hfft.data.preprocessing import PixelDataset, Pixels, collate
from hfft.jobs.finetune import finish, set_up
from hfft.machine import cores, keep_freed_memory
from hfft.training.phases import train_phases
from hfft.training.progress import Progress
from hfft.training.setup import Settings, Setup

EPOCHS = 5
Outcome = tuple[float, float]
"""Accuracy and seconds."""


def main() -> None:
    """Run every way with every seed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    results: dict[str, list[Outcome]] = {}
    for way in options.ways:
        for seed in options.seeds:
            results.setdefault(way, []).append(_alone(way, seed, options.image_size))
            print(way, seed, *(f"{figure:.3f}" for figure in results[way][-1]), flush=True)
    print(f"\n{table(runs_of(results))}")
    if options.json:
        text = json.dumps({"conditions": conditions(options), "runs": runs_of(results)}, indent=1)
        options.json.write_text(f"{text}\n", encoding="utf-8")


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all ways share."""
    return {
        "image_size": options.image_size,
        "epochs": EPOCHS,
        "seeds": len(options.seeds),
        "split": "validation",
        "device": f"{cores()} cores, {platform.processor() or platform.machine()}",
        "script": "scripts/bench_peers.py",
    }


def runs_of(results: dict[str, list[Outcome]]) -> list[dict[str, Any]]:
    """Return what the page tells of each way; its seconds stand beside hfft's where both were taken."""
    medians = {way: round(statistics.median(seconds for _, seconds in each), 3) for way, each in results.items()}
    return [
        {
            "name": TITLES[way],
            "mean": round(statistics.mean(accuracy for accuracy, _ in each), 3),
            "low": round(min(accuracy for accuracy, _ in each), 3),
            "high": round(max(accuracy for accuracy, _ in each), 3),
            "seconds": medians[way],
            "hfft_seconds": medians.get("hfft", float("nan")),
        }
        for way, each in results.items()
    ]


def _alone(way: str, seed: int, image_size: int) -> Outcome:
    """Take a way in a process of its own, so that none profits from what another has set for its process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_take, way, seed, image_size).result()


def _take(way: str, seed: int, image_size: int) -> Outcome:
    return WAYS[way](seed, image_size)


def prepare(seed: int, image_size: int, scratch: str, bf16: bool = False) -> Setup:
    """Load the embedded model and images as hfft does."""
    training = FinetuneArguments(
        output_dir=scratch,
        num_train_epochs=EPOCHS,
        seed=seed,
        bf16=bf16,
        disable_tqdm=True,
        keep="last",
        baselines="none",
    )
    model = ModelArguments(image_size=image_size)
    return set_up(Settings(model=model, cache=CacheArguments(cache_dir=f"{scratch}/cache"), training=training))


def hfft_way(seed: int, image_size: int, random_weights: bool = False, bf16: bool = False) -> Outcome:
    """Fine-tune with hfft."""
    keep_freed_memory()  # as `hfft.finetune` does
    with tempfile.TemporaryDirectory() as scratch:
        setup, progress = prepare(seed, image_size, scratch, bf16), Progress()
        setup = replace(setup, sets=replace(setup.sets, test=None))
        if random_weights:
            for module in setup.model.modules():
                if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                    module.reset_parameters()
        began = time.perf_counter()
        trainer = train_phases(setup, progress, lambda line: None)
        seconds = time.perf_counter() - began
        prediction = finish(setup, progress, trainer, began).predictions["validation"]
    return float((prediction.predictions.argmax(1) == prediction.label_ids).mean()), seconds


def trainer_way(seed: int, image_size: int, learning_rate: float = 5e-5) -> Outcome:
    """Fine-tune with transformers.Trainer, the frozen parameters set to need no gradient."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = plain_trainer(prepare(seed, image_size, scratch), learning_rate)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    log = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    return log[-1]["eval_accuracy"], seconds


def fastai_way(seed: int, image_size: int) -> Outcome:
    """Fine-tune with fastai's Learner: frozen to the last block, one cycle."""
    with tempfile.TemporaryDirectory() as scratch:
        learner = fastai_learner(prepare(seed, image_size, scratch), scratch)
        began = time.perf_counter()
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(EPOCHS)
        seconds = time.perf_counter() - began
        return float(learner.recorder.values[-1][-1]), seconds


def fastai_learner(setup: Setup, folder: str) -> Any:
    """Return a Learner of a run's model and images, frozen as the run's first phase is."""
    import fastai.callback.all  # noqa: F401  (gives Learner its schedules and no_bar)
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.metrics import accuracy

    pixels, size = Pixels(setup.processor), setup.settings.training.per_device_train_batch_size
    loaders = DataLoaders(
        DataLoader(PixelDataset(setup.sets.train, pixels), size, shuffle=True, collate_fn=as_pair),
        DataLoader(PixelDataset(setup.sets.validation, pixels), size, collate_fn=as_pair),
    )
    trainable = setup.plan.phases[0].trainable
    learner = Learner(
        loaders,
        Logits(setup.model),
        loss_func=nn.CrossEntropyLoss(),
        metrics=accuracy,
        path=folder,
        splitter=lambda model: [
            [p for name, p in model.model.named_parameters() if name not in trainable],
            [p for name, p in model.model.named_parameters() if name in trainable],
        ],
    )
    learner.freeze()
    return learner


class Logits(nn.Module):
    """A model that returns its logits alone, as fastai expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (batch, labels)."""
        logits: torch.Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def as_pair(items: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch items as fastai expects them: images and labels."""
    batch = collate(items)
    return batch["pixel_values"], batch["labels"]


def table(runs: list[dict[str, Any]]) -> str:
    """Draw the runs in Markdown."""
    rows = [
        f"| {run['name']} | {run['mean']:.3f} ({run['low']:.3f} to {run['high']:.3f}) | {run['seconds']:.1f} "
        f"| {run['seconds'] / run['hfft_seconds']:.1f}x |"
        for run in runs
    ]
    return "\n".join(
        ["| | Accuracy, mean (range) | Seconds, median | Against hfft |", "| --- | --- | ---: | ---: |", *rows]
    )


WAYS: dict[str, Callable[[int, int], Outcome]] = {
    "hfft": hfft_way,
    "hfft_bf16": lambda seed, size: hfft_way(seed, size, bf16=True),
    "random": lambda seed, size: hfft_way(seed, size, random_weights=True),
    "trainer": trainer_way,
    "trainer_tuned": lambda seed, size: trainer_way(seed, size, FinetuneArguments(output_dir="unused").learning_rate),
    "fastai": fastai_way,
}
TITLES = {
    "hfft": "hfft",
    "hfft_bf16": "hfft, `--bf16`",
    "random": "hfft, random weights",
    "trainer": "transformers.Trainer, last block, its own learning rate",
    "trainer_tuned": "transformers.Trainer, last block, hfft's learning rate",
    "fastai": "fastai, frozen to the last block, fit_one_cycle",
}


if __name__ == "__main__":
    main()
