"""Measure memory over a large set of tiny images: check, disk cache and training, each in a process of its own.

Example:
    python scripts/bench_load.py --images 100000 --output_dir outputs/bench_load
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil

CLASSES = 10
STEP_SECONDS = 0.5
"""Between two looks at a process's memory."""


def rows(images: int, side: int) -> Iterator[dict[str, Any]]:
    """Yield noisy squares whose colour tells their class, as PNG bytes."""
    import io

    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(images):
        label = number % CLASSES
        pixels = random.integers(0, 100, (side, side, 3), dtype=np.uint8)
        pixels[..., label % 3] += np.uint8(10 * label + 20)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
        yield {"image": {"bytes": stream.getvalue(), "path": f"{number:06d}.png"}, "label": label}


def write_parquet(folder: Path, images: int, side: int) -> None:
    """Write the images as ``train.parquet``."""
    names = [f"class {label}" for label in range(CLASSES)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    made = datasets.Dataset.from_generator(
        rows, features=features, gen_kwargs={"images": images, "side": side}, cache_dir=str(folder / "made")
    )
    made.to_parquet(str(folder / "data" / "train.parquet"))


def write_model(folder: Path, side: int) -> None:
    """Write a small ResNet, its weights drawn at random, whose cost is not what is measured."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.num_labels = CLASSES
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)


def watch(command: Sequence[str]) -> tuple[list[tuple[float, float, float]], int]:
    """Run a command and record the memory of it and its children.

    Returns:
        Rows of (seconds, megabytes of its own, megabytes with mapped files), and the exit code.
    """
    began, trace = time.perf_counter(), []
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        own, total = 0, 0
        for each in [process, *_children(process)]:
            try:
                memory = each.memory_info()
            except psutil.Error:  # gone meanwhile
                continue
            own += memory.rss - memory.shared
            total += memory.rss
        trace.append((time.perf_counter() - began, own / 1e6, total / 1e6))
        time.sleep(STEP_SECONDS)
    return trace, int(process.returncode)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def draw(traces: dict[str, list[tuple[float, float, float]]], images: int, path: Path) -> None:
    """Draw memory over time, the steps one after the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    start = 0.0
    for name, trace in traces.items():
        seconds = [start + row[0] for row in trace]
        (line,) = axes.plot(seconds, [row[1] for row in trace], label=f"{name}: own memory")
        axes.plot(
            seconds, [row[2] for row in trace], "--", color=line.get_color(), alpha=0.6, label="with mapped files"
        )
        start = seconds[-1] if seconds else start
    axes.set(
        xlabel="seconds", ylabel="megabytes, all processes", title=f"Memory over {images:,} images", ylim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate, run, print the peaks, and write ``load.json`` and ``memory.png``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="how many")
    parser.add_argument("--side", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/bench_load"), help="folder for the results")
    options = parser.parse_args(argv)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hfft-load-") as place:
        folder = Path(place)
        (folder / "data").mkdir()
        write_parquet(folder, options.images, options.side)
        write_model(folder / "model", options.side)
        traces, result = _measure(folder, options.images)
    draw(traces, options.images, options.output_dir / "memory.png")
    (options.output_dir / "load.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0 if all(step["exit_code"] == 0 for step in result["steps"].values()) else 1


def _measure(folder: Path, images: int) -> tuple[dict[str, list[tuple[float, float, float]]], dict[str, Any]]:
    hfft = [sys.executable, "-m", "hfft"]
    data = ["--dataset_name", str(folder / "data")]
    train = [*data, "--model_name_or_path", str(folder / "model"), "--num_train_epochs", "1", "--cache", "disk"]
    train += ["--cache_dir", str(folder / "cache"), "--disable_tqdm", "true", "--per_device_train_batch_size", "256"]
    steps = {
        "check": [*hfft, "check", *data, "--json"],
        "fill and train": [*hfft, "finetune", *train, "--output_dir", str(folder / "one"), "--baselines", "none"],
        "train from the cache, with probe": [*hfft, "finetune", *train, "--output_dir", str(folder / "two")],
    }
    traces, found = {}, {}
    for name, command in steps.items():
        trace, code = watch(command)
        traces[name] = trace
        found[name] = {
            "exit_code": code,
            "seconds": round(trace[-1][0], 1),
            "peak_own_mb": round(max(row[1] for row in trace)),
            "peak_with_mapped_files_mb": round(max(row[2] for row in trace)),
        }
    cached = sum(file.stat().st_size for file in (folder / "cache").rglob("*.safetensors"))
    return traces, {"images": images, "cache_mb": round(cached / 1e6, 1), "steps": found}


if __name__ == "__main__":
    sys.exit(main())
