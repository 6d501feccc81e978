"""What each format of an export costs: the same labels as PyTorch, megabytes, milliseconds an image.

``python scripts/bench_export.py [--models timm cnn vit swin convnext] [--formats onnx ...] [--json FILE]``
Fine-tunes the embedded default, and one small seeded model of each family on the same images, and exports all of them;
the embedded 500 test images are the check. ``scripts/benchmarks.py`` puts the table into ``docs/export.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
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

from hfft.arguments import (
    CacheArguments,
    DataArguments,
    ExportArguments,
    FinetuneArguments,
    ModelArguments,
    PolicyArguments,
)
from hfft.errors import HfftError
from hfft.inference.export.job import export
from hfft.inference.export.parity import PARITY
from hfft.jobs.finetune import finetune
from hfft.training.setup import Settings

IMAGES = 500
SIDE = 64
KINDS: dict[str, tuple[str, Callable[[], PreTrainedModel] | None]] = {
    "timm": ("EfficientNet-Lite0 (timm), the embedded default", None),
    "cnn": (
        "ResNet (CNN)",
        lambda: ResNetForImageClassification(
            ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic")
        ),
    ),
    "vit": (
        "ViT",
        lambda: ViTForImageClassification(
            ViTConfig(
                image_size=SIDE,
                patch_size=8,
                hidden_size=96,
                intermediate_size=192,
                num_hidden_layers=4,
                num_attention_heads=4,
            )
        ),
    ),
    "swin": (
        "Swin",
        lambda: SwinForImageClassification(
            SwinConfig(
                image_size=SIDE, patch_size=2, embed_dim=32, depths=[1, 2, 2], num_heads=[2, 4, 8], window_size=4
            )
        ),
    ),
    "convnext": (
        "ConvNeXt",
        lambda: ConvNextForImageClassification(
            ConvNextConfig(hidden_sizes=[32, 64, 128, 160], depths=[1, 1, 2, 1], image_size=SIDE, patch_size=2)
        ),
    ),
}
"""By the name that ``--models`` gives it, a model's name and how it is made; None: the embedded default."""


def main() -> None:
    """Train, export and measure one model after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino", "int8", "web"])
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS), help="which of them")
    parser.add_argument("--run", type=Path, help="a finished run of the one model, which is not trained then")
    parser.add_argument("--json", type=Path, help="file for the measurements; those of other models stay in it")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for kind in options.models:
        with tempfile.TemporaryDirectory(prefix="hfft-bench-") as scratch:
            place = Path(scratch)
            rows = measure(options.run or trained(kind, place), options.formats, place / "export")
        runs += [{"model": KINDS[kind][0], **row} for row in rows]
        print(table(runs), flush=True)
        if options.json:
            write(options.json, runs)


def write(file: Path, runs: list[dict[str, Any]]) -> None:
    """Write measurements, in the order of the models, in place of earlier ones of the same models."""
    before = json.loads(file.read_text())["runs"] if file.exists() else []
    mine = {run["model"] for run in runs}
    order = [name for name, _ in KINDS.values()]
    rows = sorted(
        [*(run for run in before if run["model"] not in mine), *runs], key=lambda run: order.index(run["model"])
    )
    file.write_text(json.dumps({"torch": torch.__version__, "runs": rows}, indent=1) + "\n")


def measure(run: Path, formats: Sequence[str], target: Path) -> list[dict[str, Any]]:
    """Export a finished run to each format, and return what their reports say."""
    rows: list[dict[str, Any]] = []
    rest = list(formats)
    while rest:
        reason = ""
        try:
            export(run, ExportArguments(to=list(rest), output_dir=str(target), check_images=IMAGES))
        except HfftError as error:
            reason = str(error)
        while rest and (target / rest[0] / PARITY).exists():
            rows.append(json.loads((target / rest.pop(0) / PARITY).read_text()))
        if rest:
            rows.append({"format": rest.pop(0), "refused": reason})
    return rows


def trained(kind: str, scratch: Path) -> Path:
    """Return the folder of a finished run."""
    training = FinetuneArguments(output_dir=str(scratch / "run"), seed=0, disable_tqdm=True, num_train_epochs=4)
    training.baselines, training.figures = "none", False
    model, policy = ModelArguments(), PolicyArguments()
    make = KINDS[kind][1]
    if make is not None:
        torch.manual_seed(0)
        make().save_pretrained(scratch / "base")
        ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(scratch / "base")
        model, policy = ModelArguments(model_name_or_path=str(scratch / "base")), PolicyArguments(policy="full")
        training.learning_rate = 1e-3
    cache = CacheArguments(cache="memory", prefix_engine="torch")
    finetune(Settings(model, DataArguments(), policy, cache, training), lambda line: None)
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
