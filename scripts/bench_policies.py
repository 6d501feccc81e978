"""Every policy on the embedded default: accuracy over seeds, seconds with an empty cache, trainable share.

``python scripts/bench_policies.py [--seeds 1 2 3] [--image_size 96] [--json FILE]`` measures and prints a table;
``--render FILE`` prints the table of figures that were measured before. Every policy sees the same images for the
same epochs at the default learning rate, but for those in `FASTER`, whose papers go faster by about that factor.
The linear probe is the logistic regression that every run compares itself with.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hfft.arguments import DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.demo import EMBEDDED_MODEL
from hfft.jobs.finetune import finetune
from hfft.jobs.run import Run
from hfft.training.setup import Settings

POLICIES = (
    *("head", "last_block", "last_n:2", "last_n:3", "full", "norm", "bias"),
    *("surgical:first", "surgical:middle", "surgical:last", "lp_ft", "lp_ft:full", "gradual", "auto_rgn"),
)
FASTER = {"norm": 10.0, "bias": 10.0}


def main() -> None:
    """Measure every policy with every seed, one after the other, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--render", type=Path, help="print the table of such a file, and measure nothing")
    options = parser.parse_args()
    if options.render:
        print(table(json.loads(options.render.read_text())["runs"]))
        return
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:  # seed by seed, so that whatever else the machine does meets all policies
        for policy in options.policies:
            runs += measure(policy, seed, options.image_size, with_probe=policy == options.policies[0])
            print(*(f"{value:.3f}" if isinstance(value, float) else value for value in runs[-1].values()), flush=True)
            if options.json:
                options.json.write_text(json.dumps({"conditions": conditions(options), "runs": runs}, indent=1) + "\n")
    print(f"\n{table(runs)}")


def measure(policy: str, seed: int, image_size: int, with_probe: bool) -> list[dict[str, Any]]:
    """Fine-tune once with an empty cache; with the probe, that is a row of its own."""
    rate = FinetuneArguments.learning_rate * FASTER.get(policy, 1.0)
    with tempfile.TemporaryDirectory(prefix="hfft-bench-") as scratch:
        os.environ["HFFT_CACHE"] = f"{scratch}/cache"
        training = FinetuneArguments(output_dir=f"{scratch}/out", seed=seed, learning_rate=rate, disable_tqdm=True)
        training.baselines = "probe" if with_probe else "none"
        settings = Settings(
            ModelArguments(image_size=image_size), DataArguments(), PolicyArguments(policy=policy), training=training
        )
        began = time.perf_counter()
        run = finetune(settings, lambda line: None)
        seconds = time.perf_counter() - began
    rows = [_row(run, policy, seed, seconds - run.baselines.seconds)]
    if with_probe:
        probe = run.baselines.predictions["linear_probe"]
        accuracy = {split: float((probe[split] == labels).mean()) for split, labels in _labels(run).items()}
        rows.insert(
            0, {"policy": "linear probe", "seed": seed, **accuracy, "seconds": run.baselines.seconds, "share": 0.0}
        )
    return rows


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Draw the figures as a Markdown table, one line for each policy."""
    lines = [
        "| Policy | Test accuracy, mean (range) | Validation, mean | Seconds, median | Trainable |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for policy in dict.fromkeys(run["policy"] for run in runs):
        mine = [run for run in runs if run["policy"] == policy]
        test = [run["test"] for run in mine]
        seconds = statistics.median(run["seconds"] for run in mine)
        validation = statistics.mean(run["validation"] for run in mine)
        name = policy if policy == "linear probe" else f"`{policy}`"
        accuracy = f"{statistics.mean(test):.3f} ({min(test):.3f} to {max(test):.3f})"
        share = f"{mine[0]['share']:.1%}" if mine[0]["share"] else "logistic regression"
        lines.append(f"| {name} | {accuracy} | {validation:.3f} | {seconds:.1f} | {share} |")
    return "\n".join(lines)


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Say what the figures rest on."""
    return {
        "model": EMBEDDED_MODEL,
        "image_size": options.image_size,
        "epochs": FinetuneArguments.num_train_epochs,
        "learning_rate": FinetuneArguments.learning_rate,
        "faster": FASTER,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _row(run: Run, policy: str, seed: int, seconds: float) -> dict[str, Any]:
    view = run.phases[-1].view
    accuracy = {
        split: float((output.predictions.argmax(1) == output.label_ids).mean())
        for split, output in run.predictions.items()
    }
    return {"policy": policy, "seed": seed, **accuracy, "seconds": seconds, "share": view.trainable / view.parameters}


def _labels(run: Run) -> dict[str, Any]:
    return {split: output.label_ids for split, output in run.predictions.items()}


if __name__ == "__main__":
    main()
