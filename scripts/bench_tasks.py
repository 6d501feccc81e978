"""Several labels for each image: mean average precision and seconds of hfft beside a plain Trainer.

``python scripts/bench_tasks.py [--seeds 3] [--images 400] [--epochs 10] [--json docs/measured/tasks.json]``
Images are composed of one to three of the ten embedded animals, each in a quarter of its own, the other quarters empty;
their labels are the animals. Training, validation and test images are made of the animals of the embedded set's splits,
so that no drawing is in two of them. Both ways train the same parameters of the embedded model from the same head,
for the same epochs, batches and learning rate, with an evaluation after each epoch. The last epoch's weights are judged
on the test images. Seconds are those from the loaded model to the trained one, one way after the other in one process.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from _plain import plain_trainer
from PIL import Image

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments
from hfft.data.preprocessing import PixelDataset
from hfft.demo import embedded_images
from hfft.jobs.finetune import finish, set_up
from hfft.jobs.run import judged
from hfft.machine import keep_freed_memory
from hfft.training.phases import train_phases
from hfft.training.progress import Progress
from hfft.training.setup import Settings, Setup

_TILE, _MOST = 28, 3  # pixels of an animal's side; animals of an image


@dataclass(frozen=True)
class Outcome:
    """What one way of training gave under one seed: mean average precision on the test images, and its seconds.

    Those of the CPU are of all threads and processes; other jobs do not lengthen them.
    """

    way: str
    seed: int
    map: float
    seconds: float
    cpu_seconds: float


class Clock:
    """Seconds, and those of the CPU, since it was made."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), self._cpu()

    def read(self) -> tuple[float, float]:
        """Return both."""
        return time.perf_counter() - self._began, self._cpu() - self._used

    def _cpu(self) -> float:
        return sum(os.times()[:4])


def main() -> None:
    """Measure both ways under each seed, and write what they gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=400, help="training images; validation and test have half of it")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    keep_freed_memory()  # as `hfft.finetune` does, here for both
    outcomes = [each for seed in range(options.seeds) for each in measure(seed, options)]
    if options.json:
        given = {name: value for name, value in vars(options).items() if name != "json"}
        conditions = {**given, "cpu": platform.processor() or platform.machine(), "script": "scripts/bench_tasks.py"}
        text = json.dumps({"conditions": conditions, "runs": [asdict(each) for each in outcomes]}, indent=1)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    print(table([asdict(each) for each in outcomes]))


def measure(seed: int, options: argparse.Namespace) -> list[Outcome]:
    """Train both ways on the images of one seed."""
    with tempfile.TemporaryDirectory() as scratch:
        file = compose(Path(scratch) / "images", options.images, seed)
        outcomes = []
        for name, way in WAYS.items():
            precision, spent = way(settings_of(file, Path(scratch) / "out", seed, options))
            outcomes.append(Outcome(name, seed, precision, *spent))
            print(f"seed {seed}, {name}: mAP {precision:.4f} in {spent[0]:.1f} s, {spent[1]:.1f} of CPU", flush=True)
        return outcomes


def settings_of(file: Path, out: Path, seed: int, options: argparse.Namespace) -> Settings:
    """Return what both ways share."""
    training = FinetuneArguments(
        output_dir=str(out),
        num_train_epochs=options.epochs,
        seed=seed,
        disable_tqdm=True,
        keep="last",
        baselines="none",
        report_to="none",
    )
    return Settings(
        ModelArguments(image_size=options.image_size),
        DataArguments(dataset_name=str(file), label_column_name="animals", label_separator=";"),
        cache=CacheArguments(cache_dir=str(out.parent / "cache")),
        training=training,
    )


def hfft_way(settings: Settings) -> tuple[float, tuple[float, float]]:
    """Fine-tune on cached activations, with nothing cached before."""
    setup, progress = set_up(settings), Progress()
    clock = Clock()
    trainer = train_phases(setup, progress, lambda line: None)
    spent = clock.read()
    logits, targets = judged(finish(setup, progress, trainer, time.perf_counter()).predictions["test"])
    return _precision(setup, logits, targets), spent


def plain_way(settings: Settings) -> tuple[float, tuple[float, float]]:
    """Fine-tune with transformers.Trainer, the frozen parameters set to need no gradient."""
    setup = set_up(settings)
    trainer = plain_trainer(setup)
    trainer.compute_metrics = None  # an evaluation computes the loss alone
    clock = Clock()
    trainer.train()
    spent = clock.read()
    assert setup.sets.test is not None
    found: Any = trainer.predict(PixelDataset(setup.sets.test, setup.plain_pixels))
    return _precision(setup, np.asarray(found.predictions), setup.sets.test.labels), spent


WAYS = {"transformers.Trainer": plain_way, "hfft": hfft_way}


def _precision(setup: Setup, logits: Any, targets: Any) -> float:
    return setup.sets.task.epoch_metrics(logits, targets)["map"]


def compose(folder: Path, count: int, seed: int) -> Path:
    """Write images and a table of them: path, animals with semicolons between them, split."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    table = folder / "animals.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "animals", "split"])
        for split, animals in embedded_images().items():
            names, drawings = animals.features["label"].names, _drawings(animals)
            for number in range(count if split == "train" else count // 2):
                name = f"{split}-{number:04d}.png"
                chosen = random.choice(len(names), random.integers(1, _MOST + 1), replace=False)
                Image.fromarray(_scene(chosen, drawings, random)).save(folder / name)
                writer.writerow([name, ";".join(names[each] for each in sorted(chosen)), split])
    return table


def _drawings(animals: datasets.Dataset) -> dict[int, list[np.ndarray[Any, Any]]]:
    found: dict[int, list[np.ndarray[Any, Any]]] = {}
    for row in animals:
        found.setdefault(row["label"], []).append(
            np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L"))
        )
    return found


def _scene(chosen: Any, drawings: dict[int, list[Any]], random: np.random.Generator) -> Any:
    """Put one drawing of each chosen animal into a quarter of its own, in grey."""
    scene = np.zeros((2 * _TILE, 2 * _TILE), np.uint8)
    for animal, place in zip(chosen, random.permutation(4), strict=False):
        top, left = (_TILE * int(each) for each in divmod(int(place), 2))
        drawing = drawings[int(animal)][random.integers(len(drawings[int(animal)]))]
        scene[top : top + _TILE, left : left + _TILE] = drawing
    return scene


def table(runs: list[dict[str, Any]]) -> str:
    """Return a row for each way: its mean average precision with the range over seeds, seconds, and the ratios."""
    found = {way: [run for run in runs if run["way"] == way] for way in WAYS}
    kinds = ("seconds", "cpu_seconds")
    medians = {way: [float(np.median([run[kind] for run in each])) for kind in kinds] for way, each in found.items()}
    lines = ["| | mAP, mean (range) | Seconds | Against hfft | Of CPU | Against hfft |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    for way, each in found.items():
        maps = [run["map"] for run in each]
        spread = f" ({min(maps):.3f} to {max(maps):.3f})" if len(maps) > 1 else ""
        cells = [f"{a:.1f} | {a / b:.1f}x" for a, b in zip(medians[way], medians["hfft"], strict=True)]
        lines.append(f"| {way} | {np.mean(maps):.3f}{spread} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
