"""What a GPU does while hfft works: the fill against a bare forward, places of the cache, compiling, plain Trainer.

``python scripts/bench_gpu.py [--models resnet50 vit_b16] [--images 2048] [--json FILE]``
Each model gets random weights and generated JPEGs of 500x375 pixels, half as many for validation as for training; the
last block trains in the precision that hfft chooses. Measured one after the other in this process:

* bare: the frozen prefix over and over on one batch that lies on the GPU already, images a second;
* decoding: the images read, decoded and resized by the worker processes, and thrown away, images a second;
* fill: the same images decoded, through the prefix, and kept on disk, in memory or on the GPU, images a second, and the
  share of the seconds in which the GPU waits for decoded images; the proof of the cut is counted in;
* step: milliseconds of a training step on activations kept in each of these places, and with the suffix compiled; the
  evaluation of the epoch is counted in;
* all of a training, from the loaded model on: ``transformers.Trainer`` with the same frozen set and as many worker
  processes as hfft has, hfft with nothing cached, and from disk and on the GPU with everything; seconds, those until
  the disk has what it gets counted in, and gigabytes of the GPU's memory.

--json docs/measured/gpu.json is what `benchmarks.py` reads; what stands there beside the runs is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _plain import plain_trainer
from bench_cache import MODELS, TITLES, make_images, make_settings, save_model, timed

from hfft.arguments import CacheArguments
from hfft.cache.behind import WriteBehind
from hfft.cache.fill import pixel_batches
from hfft.cache.prepare import ImagesAndPixels, probe_inputs
from hfft.jobs.finetune import set_up
from hfft.machine import cores
from hfft.split.engines import EngineError, export_engine
from hfft.split.halves import Prefix
from hfft.training.phases import make_ready, to_device, train_phases
from hfft.training.progress import Progress
from hfft.training.setup import Settings, Setup

BATCHES = (64, 256)
PLACES = ("disk", "memory", "gpu")
STORED = ("disk", "gpu")  # places whose rows the next run finds
PLAIN = "transformers.Trainer"
_SECONDS = 1.0


@dataclass
class Result:
    """What was measured of one model: images a second, seconds, milliseconds a step, gigabytes."""

    model: str
    bare: dict[int, float] = field(default_factory=dict)
    compiled: dict[int, float] = field(default_factory=dict)
    compile_seconds: float = 0.0
    decoding: float = 0.0
    fill: dict[str, float] = field(default_factory=dict)
    wait_share: dict[str, float] = field(default_factory=dict)
    step_ms: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    gpu_gb: dict[str, float] = field(default_factory=dict)
    cache_gb: float = 0.0
    notes: list[str] = field(default_factory=list)


def main() -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["resnet50", "vit_b16", "convnext_t"])
    parser.add_argument("--images", type=int, default=2048, help="training images; validation takes half as many")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--compile", nargs="*", choices=list(MODELS), default=[], help="models to compile as well")
    parser.add_argument("--skip_plain", action="store_true", help="leave transformers.Trainer out")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    options.memory_format = "auto"
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, count in (("train", options.images), ("validation", options.images // 2)):
            make_images(folder / name, count)
        for name in options.models:
            save_model(MODELS[name](), folder / name)
            results.append(Result(name))
            for part in measure(folder, results[-1], options):
                print(f"{name}: {part}", json.dumps(asdict(results[-1])), flush=True)
                _write(options, results)


def measure(folder: Path, result: Result, options: argparse.Namespace) -> Iterator[str]:
    """Measure one model; yields after each part, whose name it gives."""
    settings = make_settings(folder, result.model, "last_block", options)
    for place in options.places:
        _measure_place(settings, place, result)
        yield place
    if not options.skip_plain:
        _measure_plain(settings, result)
        yield "plain"
    if result.model in options.compile:
        _measure_compiled(settings, result)
        yield "compiled"


def _measure_place(settings: Settings, place: str, result: Result) -> None:
    """Fill the cache into one place, and train from there; from disk once more, when all is filled."""
    for label in (place, f"{place}, filled") if place in STORED else (place,):
        with timed() as whole, WriteBehind(result.notes.append) as behind:
            setup = replace(set_up(_with(settings, place)), behind=behind)
            to_device(setup)
            progress = Progress()
            with _noted(result, f"{label}: prepare"):
                (ready,) = make_ready(setup, setup.plan.phases, lambda line: None)
            with _noted(result, f"{label}: train"):
                train_phases(setup, progress, lambda line: None, prepared=[ready])
        result.seconds[label] = whole.seconds
        result.step_ms[place] = _step(progress)
        result.gpu_gb[label] = max(result.gpu_gb.pop(f"{label}: {half}", 0.0) for half in ("prepare", "train"))
        if label == place:
            reports, seconds = ready.prepared.reports.values(), result.seconds[f"{label}: prepare"]
            result.fill[place] = sum(each.computed for each in reports) / seconds
            result.wait_share[place] = sum(each.wait_seconds for each in reports) / seconds
            result.cache_gb = ready.prepared.bytes / 1e9
        if not result.bare:
            assert ready.prepared.prefix is not None
            _measure_halves(setup, ready.prepared.prefix, result)
    shutil.rmtree(str(settings.cache.cache_dir), ignore_errors=True)


def _measure_halves(setup: Setup, prefix: Prefix, result: Result) -> None:
    part = ImagesAndPixels(setup.sets.train, setup.plain_pixels)
    for size in BATCHES:
        batch = probe_inputs(part, prefix.device, prefix.memory_format, size)
        result.bare[size] = len(next(iter(batch.values()))) * _per_second(partial(prefix.capture, batch))
    rows = list(range(len(setup.sets.train)))
    began = time.perf_counter()
    for _ in pixel_batches(setup.sets.train, setup.plain_pixels, prefix.device)(rows):
        pass
    result.decoding = len(rows) / (time.perf_counter() - began)


def _measure_plain(settings: Settings, result: Result) -> None:
    trainer = plain_trainer(set_up(_with(settings, "off")))
    trainer.args.dataloader_num_workers = min(cores(), 16)
    with _noted(result, PLAIN):
        trainer.train()


def _measure_compiled(settings: Settings, result: Result) -> None:
    """Train with the suffix compiled into CUDA graphs, and compute the prefix compiled."""
    setup = set_up(_with(settings, "memory"))
    setup.settings.training.torch_compile = True
    setup.settings.training.torch_compile_mode = "reduce-overhead"
    to_device(setup)
    (ready,) = make_ready(setup, setup.plan.phases, lambda line: None)
    progress, prefix = Progress(), ready.prepared.prefix
    assert prefix is not None
    with _noted(result, "compiled suffix: train"):
        train_phases(setup, progress, lambda line: None, prepared=[ready])
    result.step_ms["memory, compiled"] = _step(progress)
    batch = probe_inputs(ImagesAndPixels(setup.sets.train, setup.plain_pixels), prefix.device, prefix.memory_format, 64)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            engine = export_engine("compile", prefix, batch, Path(folder), prefix.autocast == torch.bfloat16)
            engine.capture(batch)
        except EngineError as error:
            result.notes.append(f"compile: {error}")
            return
        result.compile_seconds = time.perf_counter() - began
        result.compiled[64] = 64 * _per_second(partial(engine.capture, batch))


def _step(progress: Progress) -> float:
    """Milliseconds of a step in the last epoch, its evaluation counted in."""
    seconds = [entry["epoch_seconds"] for entry in progress.log if "epoch_seconds" in entry]
    return float(seconds[-1]) / (progress.phases[0].steps / len(seconds)) * 1e3


def table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table of what was measured."""
    columns = [
        *("Model", "Card", "Bare forward, batches of 64, 256, images/s", "Decoding, images/s"),
        *("Fill into memory, images/s", "onto the GPU", "GPU waits, memory", "waits, GPU"),
        *("Step, memory, ms", "step, GPU, ms", "Trainer, s", "hfft, memory, s", "hfft, GPU, s"),
        *("Trainer, GB of the GPU", "hfft, memory, GB", "hfft, GPU, GB"),
    ]
    header, ways = [columns, ["---", "---", *["---:"] * (len(columns) - 2)]], (PLAIN, "memory", "gpu")
    rows = [
        [
            *(run["model"], run["card"], ", ".join(f"{run['bare'][str(size)]:,.0f}" for size in BATCHES)),
            *(f"{rate:,.0f}" for rate in (run["decoding"], run["fill"]["memory"], run["fill"]["gpu"])),
            *(f"{run['wait_share'][place]:.0%}" for place in ("memory", "gpu")),
            *(f"{run['step_ms'][place]:.1f}" for place in ("memory", "gpu")),
            *(f"{run['seconds'][way]:.1f}" if way in run["seconds"] else "" for way in ways),
            *(f"{run['gpu_gb'][way]:.2f}" for way in ways),
        ]
        for run in runs
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*header, *rows])


def _with(settings: Settings, place: str) -> Settings:
    folder = str(settings.cache.cache_dir)
    return replace(settings, cache=CacheArguments(cache=place, cache_dir=folder, prefix_engine="torch"))


@contextmanager
def _noted(result: Result, label: str) -> Iterator[None]:
    """Note the seconds of what runs within, and the most of the GPU's memory that it takes."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with timed() as measurement:
        yield
    result.seconds[label] = measurement.seconds
    if torch.cuda.is_available():
        result.gpu_gb[label] = torch.cuda.max_memory_allocated() / 1e9


def _per_second(compute: Callable[[], object]) -> float:
    for _ in range(3):
        compute()
    _synchronize()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        for _ in range(4):
            compute()
        _synchronize()
        count += 4
    return count / (time.perf_counter() - began)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _write(options: argparse.Namespace, results: list[Result]) -> None:
    if not options.json:
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    conditions = {
        **{"cores": cores(), "torch": torch.__version__, "policy": "last_block", "script": "scripts/bench_gpu.py"},
        **{name: getattr(options, name) for name in ("images", "epochs", "batch_size")},
    }
    runs = [{**asdict(each), "model": TITLES[each.model], "card": card} for each in results]
    kept = json.loads(options.json.read_text()) if options.json.exists() else {}
    options.json.write_text(json.dumps({**kept, "conditions": conditions, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
