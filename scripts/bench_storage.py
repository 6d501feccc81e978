"""What narrower cached activations cost: bytes an image and validation accuracy, by boundary and number format.

``python scripts/bench_storage.py [--seeds 1 2 3] [--image_size 96] [--json FILE]``
Fine-tunes the embedded default at four boundaries with each ``--cache_dtype``; all else is equal. A policy's boundary
is where its frozen prefix ends. Differences are paired: the same seed, images and order with float32 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.demo import EMBEDDED_MODEL
from hfft.jobs.finetune import finetune
from hfft.training.setup import Settings

POLICIES = ("head", "last_block", "last_n:2", "last_n:3")
FORMATS = ("float32", "bfloat16", "float16", "int8")


def main() -> None:
    """Measure each boundary in each format, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    conditions = {"model": EMBEDDED_MODEL, "image_size": options.image_size, "torch": torch.__version__}
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        for policy in POLICIES:
            for number_format in FORMATS:
                runs.append(measure(policy, number_format, seed, options.image_size))
                print(*runs[-1].values(), flush=True)
                if options.json:
                    options.json.write_text(json.dumps({"conditions": conditions, "runs": runs}, indent=1) + "\n")
    print(f"\n{table(runs)}")


def measure(policy: str, number_format: str, seed: int, image_size: int) -> dict[str, Any]:
    """Fine-tune once with an empty cache in memory."""
    with tempfile.TemporaryDirectory(prefix="hfft-bench-") as scratch:
        os.environ["HFFT_CACHE"] = f"{scratch}/cache"
        training = FinetuneArguments(output_dir=f"{scratch}/out", seed=seed, disable_tqdm=True)
        training.baselines = "none"
        settings = Settings(
            ModelArguments(image_size=image_size),
            DataArguments(),
            PolicyArguments(policy=policy),
            CacheArguments(cache="memory", cache_dtype=number_format, prefix_engine="torch"),
            training,
        )
        finetune(settings, lambda line: None, test=False)
        record = json.loads(Path(scratch, "out", "hfft.json").read_text())
    images = 1500  # training and validation images of the embedded set
    return {
        "policy": policy,
        "boundary": record["plan"][0]["boundary"],
        "format": number_format,
        "seed": seed,
        "bytes": record["cache"]["bytes"] // images,
        "accuracy": record["metrics"]["validation"]["values"]["accuracy"],
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Draw the figures as a Markdown table, one line for each boundary and format."""
    lines = [
        "| Policy | Boundary | Format | Bytes an image | Of float32 | Validation accuracy, mean | Paired difference |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for policy, number_format in dict.fromkeys((run["policy"], run["format"]) for run in runs):
        plain = {run["seed"]: run for run in runs if (run["policy"], run["format"]) == (policy, FORMATS[0])}
        mine = [run for run in runs if (run["policy"], run["format"]) == (policy, number_format)]
        gaps = [run["accuracy"] - plain[run["seed"]]["accuracy"] for run in mine]
        share = mine[0]["bytes"] / plain[mine[0]["seed"]]["bytes"]
        gap = f"{statistics.mean(gaps):+.4f} ({min(gaps):+.3f} to {max(gaps):+.3f})" if share != 1 else ""
        accuracy = f"{statistics.mean(run['accuracy'] for run in mine):.3f}"
        size = f"{mine[0]['bytes']:,}"
        cells = [f"`{policy}`", f"`{mine[0]['boundary']}`", number_format, size, f"{share:.2f}", accuracy, gap]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
