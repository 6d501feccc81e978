"""What a GPU does while hfft works: the fill against a bare forward, places of the cache, compiling, plain Trainer.

``python scripts/bench_gpu.py [--models resnet50 vit_b16] [--images 2048] [--json FILE]``
Each model gets random weights and generated JPEGs of 500x375 pixels, half as many for validation as for training; the
last block trains in the precision that hfft chooses. Measured one after the other in this process:

* bare: the frozen prefix over and over on one batch that lies on the GPU already, images a second;
* decoding: the images read, decoded and resized by the worker processes, and thrown away, images a second;
* fill: the same images decoded, through the prefix, and kept, images a second, and the share of the seconds in which
  the GPU waits for decoded images;
* a step of training on activations kept on disk, in memory and on the GPU, and with the suffix compiled, milliseconds;
* all of a training: ``transformers.Trainer`` with the same frozen set and as many worker processes, hfft with nothing
  cached and with everything, seconds and gigabytes of the GPU's memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from _plain import plain_trainer
from bench_cache import MODELS, make_images, make_settings, save_model, timed

from hfft.arguments import CacheArguments, FinetuneArguments
from hfft.cache.fill import FillReport, pixel_batches
from hfft.cache.prepare import ImagesAndPixels, probe_inputs
from hfft.jobs.finetune import set_up
from hfft.machine import cores
from hfft.split.engines import EngineError, export_engine
from hfft.split.halves import Prefix
from hfft.training.phases import make_ready, to_device, train_phases
from hfft.training.progress import Progress
from hfft.training.setup import Settings

BATCHES = (64, 256)
PLACES = ("disk", "memory", "gpu")
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
    notes: list[str] = field(default_factory=list)


def main() -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["resnet50", "vit_b16", "convnext_t"])
    parser.add_argument("--images", type=int, default=2048, help="training images; validation takes half as many")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--compile", action="store_true", help="measure compiled prefixes and suffixes too")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--skip_plain", action="store_true", help="leave transformers.Trainer out")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    options.memory_format = "auto"
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_images(folder / "train", options.images)
        make_images(folder / "validation", options.images // 2)
        for name in options.models:
            save_model(MODELS[name](), folder / name)
            results.append(measure(folder, name, options))
            print(json.dumps(asdict(results[-1])), flush=True)
            if options.json:
                machine = {"gpu": _device_name(), "cores": cores(), "torch": torch.__version__}
                content = {"machine": machine, "options": vars(options), "results": [asdict(each) for each in results]}
                options.json.write_text(json.dumps(content, indent=1, default=str) + "\n")


def measure(folder: Path, name: str, options: argparse.Namespace) -> Result:
    """Measure one model."""
    result, settings = Result(name), make_settings(folder, name, "last_block", options)
    for place in options.places:
        _measure_place(settings, place, result, options)
    if options.compile:
        for mode in ("default", "reduce-overhead"):
            _measure_step(_with(settings, "memory", {"torch_compile": True, "torch_compile_mode": mode}), mode, result)
    if not options.skip_plain:
        trainer = plain_trainer(set_up(_with(settings, "off")))
        trainer.args.dataloader_num_workers = min(cores(), 16)
        with _peak(result, "plain"):
            trainer.train()
    return result


def _measure_place(settings: Settings, place: str, result: Result, options: argparse.Namespace) -> None:
    """Fill the cache into one place, and train from there."""
    settings = _with(settings, place)
    folder = Path(str(settings.cache.cache_dir))
    setup = set_up(settings)
    with _peak(result, f"fill {place}"):
        (ready,) = make_ready(setup, setup.plan.phases, lambda line: None)
    reports = ready.prepared.reports.values()
    result.fill[place] = sum(each.computed for each in reports) / result.seconds[f"fill {place}"]
    result.wait_share[place] = sum(each.wait_seconds for each in reports) / result.seconds[f"fill {place}"]
    prefix = ready.prepared.prefix
    assert prefix is not None
    if not result.bare:
        _measure_halves(setup, prefix, result, options.compile)
    if place == "disk":
        with _peak(result, "filled"):
            train_phases(set_up(settings), Progress(), lambda line: None)
    _measure_step(settings, place, result)
    shutil.rmtree(folder, ignore_errors=True)
    if place == "disk":
        with _peak(result, "empty"):
            train_phases(set_up(settings), Progress(), lambda line: None)
        shutil.rmtree(folder, ignore_errors=True)


def _measure_halves(setup: Any, prefix: Prefix, result: Result, compiles: bool) -> None:
    part = ImagesAndPixels(setup.sets.train, setup.plain_pixels)
    for size in BATCHES:
        batch = probe_inputs(part, prefix.device, prefix.memory_format, size)
        size = len(next(iter(batch.values())))
        result.bare[size] = size * _per_second(lambda batch=batch: prefix.capture(batch))  # type: ignore[misc]
    rows = list(range(len(setup.sets.train)))
    began, report = time.perf_counter(), FillReport(len(rows))
    for _ in pixel_batches(setup.sets.train, setup.plain_pixels, prefix.device)(rows):
        report.passed += 1
    result.decoding = len(rows) / (time.perf_counter() - began)
    if not compiles:
        return
    with tempfile.TemporaryDirectory() as folder:
        batch = probe_inputs(part, prefix.device, prefix.memory_format, BATCHES[0])
        began = time.perf_counter()
        try:
            engine = export_engine("compile", prefix, batch, Path(folder), prefix.autocast == torch.bfloat16)
            engine.capture(batch)
            result.compile_seconds = time.perf_counter() - began
            result.compiled[BATCHES[0]] = BATCHES[0] * _per_second(lambda: engine.capture(batch))
        except EngineError as error:
            result.notes.append(f"compile: {error}")


def _measure_step(settings: Settings, label: str, result: Result) -> None:
    """Milliseconds of a training step: what three more epochs take, evaluation included, by their steps."""
    seconds = []
    for epochs in (2, 6):
        each = replace(settings, training=replace(settings.training, num_train_epochs=epochs))
        setup, progress = set_up(each), Progress()
        to_device(setup)
        try:
            train_phases(setup, progress, lambda line: None)
        except Exception as error:
            result.notes.append(f"{label}: {type(error).__name__}: {error}"[:300])
            return
        seconds.append((progress.phases[0].train_metrics["train_runtime"], progress.phases[0].steps))
    (short, few), (long, many) = seconds
    result.step_ms[label] = (long - short) / (many - few) * 1e3


def _with(settings: Settings, place: str, training: dict[str, Any] | None = None) -> Settings:
    cache = CacheArguments(cache=place, cache_dir=str(settings.cache.cache_dir), prefix_engine="torch")
    own = {**vars(settings.training), **(training or {})}
    wanted = ("output_dir", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size")
    keep = {name: own[name] for name in (*wanted, "disable_tqdm", "baselines")}
    return replace(settings, cache=cache, training=FinetuneArguments(keep="last", **keep, **(training or {})))


class _peak:  # noqa: N801  (used as a function)
    """Note the seconds of what runs within, and the most of the GPU's memory that it takes."""

    def __init__(self, result: Result, label: str) -> None:
        self.result, self.label, self.timer = result, label, timed()

    def __enter__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.measurement = self.timer.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.timer.__exit__(*error)
        self.result.seconds[self.label] = self.measurement.seconds
        if torch.cuda.is_available():
            self.result.gpu_gb[self.label] = torch.cuda.max_memory_allocated() / 1e9


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


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


if __name__ == "__main__":
    main()
