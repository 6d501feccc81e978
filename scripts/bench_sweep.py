"""What a sweep costs, in runs: ``hfft sweep`` of eight learning rates against one ``hfft finetune``.

``python scripts/bench_sweep.py [--runs 8] [--json FILE] [FLAGS of hfft finetune]``
Both start with an empty activation cache and run in this process, one after the other, after a small run that
loads the libraries. Without flags both take the embedded default. Everything counts: loading the images and the
model, the frozen prefix, training, the baselines and the test images of the single run, and all files written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch

from hfft.cli import main as hfft
from hfft.report.record import read_record

SMALL = ["--max_train_samples", "40", "--max_eval_samples", "20", "--num_train_epochs", "1"]


def main() -> None:
    """Measure one run and one sweep, and print how many runs the sweep costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options, flags = parser.parse_known_args()
    rates = ",".join(f"{1e-4 * 1.5**step:.2e}" for step in range(options.runs))
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch, "small"), "finetune", [*flags, *SMALL])
        one = measure(Path(scratch, "run"), "finetune", flags)
        many = measure(Path(scratch, "sweep"), "sweep", [*flags, "--sweep", f"learning_rate={rates}"])
        places = [Path(scratch, "run/out"), *sorted(Path(scratch, "sweep/out").glob("*/"))]
        seconds = {place.name: read_record(place / "hfft.json").seconds for place in places}
    ratio = many["seconds"] / one["seconds"]
    print(f"\nOne run: {one['seconds']:.1f} s; a sweep of {options.runs}: {many['seconds']:.1f} s, {ratio:.2f} runs")
    print(f"In processor time: {many['cpu_seconds'] / one['cpu_seconds']:.2f} runs")
    if options.json:
        machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        if torch.cuda.is_available():
            machine["gpu"] = torch.cuda.get_device_name()
        figures = {"runs": options.runs, "flags": flags, "run": one, "sweep": many, "ratio": ratio, "parts": seconds}
        options.json.write_text(json.dumps({"machine": machine, **figures}, indent=2))


def measure(folder: Path, command: str, flags: list[str]) -> dict[str, float]:
    """Run one command with a cache of its own, and return its seconds by the clock and of all processors."""
    place = ["--output_dir", str(folder / "out"), "--cache_dir", str(folder / "cache"), "--disable_tqdm", "true"]
    began, before = time.perf_counter(), _processor_seconds()
    if hfft([command, *flags, *place]):
        raise SystemExit(f"hfft {command} failed")
    return {"seconds": time.perf_counter() - began, "cpu_seconds": _processor_seconds() - before}


def _processor_seconds() -> float:
    """Seconds that this process and its finished workers have computed."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
