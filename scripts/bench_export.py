"""What each format of an export costs: the same labels as PyTorch, megabytes, milliseconds an image.

``python scripts/bench_export.py [--formats onnx openvino int8 web] [--json FILE]``
Fine-tunes the embedded default, and one small seeded model of each family on the same images, and exports all of them;
the embedded 500 test images are the check. ``scripts/benchmarks.py`` puts the table into ``docs/export.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hfft.arguments import DataArguments, ExportArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.errors import HfftError
from hfft.inference.export.job import export
from hfft.jobs.finetune import finetune
from hfft.training.setup import Settings

IMAGES = 500
SIDE = 64
KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "ResNet (CNN)": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic")
    ),
    "ViT": lambda: ViTForImageClassification(
        ViTConfig(
            image_size=SIDE,
            patch_size=8,
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
        )
    ),
    "Swin": lambda: SwinForImageClassification(
        SwinConfig(image_size=SIDE, patch_size=2, embed_dim=32, depths=[1, 2, 2], num_heads=[2, 4, 8], window_size=4)
    ),
    "ConvNeXt": lambda: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[32, 64, 128, 160], depths=[1, 1, 2, 1], image_size=SIDE, patch_size=2)
    ),
}
EMBEDDED = "EfficientNet-Lite0 (timm), the embedded default"


def main() -> None:
    """Train, export and measure one model after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino", "int8", "web"])
    parser.add_argument("--json", type=Path, help="file for the measurements")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for kind in (EMBEDDED, *KINDS):
        with tempfile.TemporaryDirectory(prefix="hfft-bench-") as scratch:
            runs += measure(kind, options.formats, Path(scratch))
        print(table([run for run in runs if run["model"] == kind]), flush=True)
        if options.json:
            options.json.write_text(json.dumps({"torch": torch.__version__, "runs": runs}, indent=1) + "\n")


def measure(kind: str, formats: Sequence[str], scratch: Path) -> list[dict[str, Any]]:
    """Fine-tune a model and export it to each format."""
    output = trained(kind, scratch)
    rows = []
    for name in formats:
        try:
            (done,) = export(output, ExportArguments(to=(name,), check_images=IMAGES))
            rows.append({"model": kind, **asdict(done.parity)})
        except HfftError as error:
            rows.append({"model": kind, "format": name, "refused": str(error)})
    return rows


def trained(kind: str, scratch: Path) -> Path:
    """Return the folder of a finished run."""
    runtime = os.environ.get("HFFT_CACHE")
    training = FinetuneArguments(output_dir=str(scratch / "run"), seed=0, disable_tqdm=True, num_train_epochs=4)
    training.baselines, training.figures = "none", False
    model, policy = ModelArguments(), PolicyArguments()
    if kind in KINDS:
        torch.manual_seed(0)
        KINDS[kind]().save_pretrained(scratch / "base")
        ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(scratch / "base")
        model, policy = ModelArguments(model_name_or_path=str(scratch / "base")), PolicyArguments(policy="full")
        training.learning_rate = 1e-3
    os.environ["HFFT_CACHE"] = str(scratch / "cache")
    try:
        finetune(Settings(model, DataArguments(), policy, training=training), lambda line: None)
    finally:
        os.environ.pop("HFFT_CACHE") if runtime is None else os.environ.update(HFFT_CACHE=runtime)
    return scratch / "run"


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Draw the measurements as a Markdown table, one line for each model and format."""
    names = ["Model", "Format", "Same label as PyTorch", 'Same "none of these"', "Accuracy", "Largest difference"]
    names += ["MB", "ms an image", "PyTorch, ms"]
    lines = [f"| {' | '.join(names)} |", f"| --- | --- |{' ---: |' * (len(names) - 2)}"]
    for run in runs:
        if "refused" in run:
            lines.append(f"| {run['model']} | `{run['format']}` | refused: {run['refused']} | | | | | | |")
            continue
        accuracy = f"{run['accuracy']:.3f} (PyTorch {run['torch_accuracy']:.3f})"
        cells = [run["model"], f"`{run['format']}`", f"{run['same_labels']} of {run['images']}"]
        cells += ["" if run["same_unknown"] is None else f"{run['same_unknown']} of {run['images']}", accuracy]
        cells += [f"{run['difference']:.1e}", f"{run['megabytes']:.1f}"]
        cells += [f"{run['milliseconds']:.1f}", f"{run['torch_milliseconds']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
