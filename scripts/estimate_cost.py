"""What fine-tuning on many images would cost: measured on a few, checked on more, and multiplied.

``python scripts/estimate_cost.py [--models resnet18 vit_s16] [--few 128] [--more 512] [--images 1281167]``
A run on `few` generated JPEGs of 500x375 gives seconds per image for the frozen prefix with its decoding, and for
one epoch of the suffix. From these the run on `more` images is predicted, then made, so that the prediction can be
judged; and a run on `images` images over `processes` processes is calculated. Costs per
run that do not grow with the images (loading, the proof of exactness) are left out, so that predictions are low for
few images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_cache import MODELS, make_images, make_settings, save_model, with_hfft


@dataclass(frozen=True)
class Cost:
    """Cost of a run: seconds in the prefix with decoding, seconds in the suffix, bytes of cached activations."""

    prefix: float
    suffix: float
    bytes: float

    def times(self, factor: float, processes: int = 1) -> Cost:
        """Return the cost of `factor` times as many images; processes share the seconds, not the bytes."""
        return Cost(self.prefix * factor / processes, self.suffix * factor / processes, self.bytes * factor)


def main() -> None:
    """Measure, check and multiply for every model and policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["resnet18", "vit_s16"])
    parser.add_argument("--policies", nargs="+", default=["head", "last_block"])
    parser.add_argument("--few", type=int, default=128)
    parser.add_argument("--more", type=int, default=512)
    parser.add_argument("--images", type=int, default=1_281_167, help="training images; validation takes half as many")
    parser.add_argument("--processes", type=int, default=8, help="each as fast as this machine")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--memory_format", default="auto", choices=["auto", "contiguous", "channels_last"])
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for name in options.models:
        for policy in options.policies:
            few, more = (measure(name, policy, count, options) for count in (options.few, options.more))
            predicted = few.times(options.more / options.few)
            many = more.times(options.images / options.more, options.processes)
            costs = {"few": few, "predicted": predicted, "more": more, "many": many}
            results.append({"model": name, "policy": policy, **{key: vars(cost) for key, cost in costs.items()}})
            print(row(name, policy, predicted, more, many), flush=True)
    print("\n" + table(results, options))
    if options.json:
        options.json.write_text(
            json.dumps({"options": vars(options), "results": results}, indent=2, default=str) + "\n"
        )


def measure(name: str, policy: str, count: int, options: argparse.Namespace) -> Cost:
    """Fine-tune on some images, half as many for validation, with an empty cache."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_images(folder / "train", count)
        make_images(folder / "validation", count // 2)
        save_model(MODELS[name](), folder / name)
        measured, *_ = with_hfft(make_settings(folder, name, policy, options))
    return Cost(measured.wait + measured.prefix, measured.suffix, measured.cache_bytes)


def row(name: str, policy: str, predicted: Cost, more: Cost, many: Cost) -> str:
    """One line of the table."""
    cells = [
        name,
        policy,
        f"{predicted.prefix:.1f} / {more.prefix:.1f}",
        f"{predicted.suffix:.1f} / {more.suffix:.1f}",
        f"{predicted.bytes / 1e6:.1f} / {more.bytes / 1e6:.1f}",
        f"{many.prefix / 3600:.1f}",
        f"{many.suffix / 3600:.1f}",
        f"{many.bytes / 1e9:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def table(results: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The whole table in Markdown."""
    header = (
        f"| Model | Policy | Prefix, s, predicted / measured on {options.more} | Suffix, s | Cache, MB "
        f"| {options.images:,} images on {options.processes}: prefix, h | {options.epochs} epochs of the suffix, h "
        "| Cache, GB |"
    )
    rows = [
        row(each["model"], each["policy"], *(Cost(**each[key]) for key in ("predicted", "more", "many")))
        for each in results
    ]
    return "\n".join([header, "| --- | --- |" + " ---: |" * 6, *rows])


if __name__ == "__main__":
    main()
