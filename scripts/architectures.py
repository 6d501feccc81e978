"""Write docs/architectures.md from the code, or check that it is current.

    python scripts/architectures.py
    python scripts/architectures.py --check
    python scripts/architectures.py --check --every 6   # within a minute: every sixth row

Structure, shares and bytes are those of each architecture's default configuration, built without weights on
the meta device. Whether replay is exact is measured on the small models of the test suite.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from hfft.errors import UnsupportedModelError
from hfft.machine import cores
from hfft.models.forward import Inputs, record_calls
from hfft.models.headless.backbones import classifier_config, headless_types
from hfft.output_folder import CODE
from hfft.planning.freezing import freeze
from hfft.planning.plan import Phase, count_parameters, make_plan
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import covers
from hfft.plugin.installed import find_plugin
from hfft.plugin.table import HEADED, TablePlugin, backbone_of
from hfft.split.class_token import refusal
from hfft.split.proof import split_model
from hfft.split.split import Split, SplitError, find_boundary

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architectures.md"
POLICY = "last_block"
READS_VALUES = {"perceiver", "siglip2"}
"""Model types whose code branches on the values of an attention mask; they run on zeros instead of on meta."""

INTRODUCTION = """\
# Architectures

This page is written by `python scripts/architectures.py`; do not edit it.

- **Blocks**: how many there are; a block is a CNN's or a hierarchical transformer's stage, a plain
  transformer's encoder layer.
- **Last block**: the modules that `--policy last_block` trains, along with the neck and the head.
- **Share**: of all parameters, those in the last block.
- **Cache**: what one image takes in the activation cache under `--policy last_block`, in float32.
- **Replay**: whether training from cached activations gives the full forward's logits to the last bit.
- **Shortcut**: whether the head reads nothing but the class token of the last block, so that the block
  need not compute its other tokens.
"""


@dataclass(frozen=True)
class Section:
    """One source of architectures: its heading, a paragraph, and a table of `Row`s or of refusals."""

    title: str
    note: str
    rows: list[Row]
    refused: dict[str, str]


@dataclass(frozen=True)
class Row:
    """One architecture."""

    name: str
    plugin: str
    input: str
    blocks: int
    last_block: str
    share: float
    cache_bytes: int
    replay: str
    shortcut: str


DescribeAll = Callable[[Callable[[str], Row], Iterable[str]], tuple[list[Row], dict[str, str]]]
"""Describes architectures by their names: their rows, and why others are refused."""


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with ``--check`` show how it differs; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is not current")
    parser.add_argument("--every", type=int, default=1, help="check every N-th architecture of each section alone")
    options = parser.parse_args(arguments)
    if options.every > 1 and not options.check:
        parser.error("--every needs --check: a page has all architectures")
    with ProcessPoolExecutor(cores(), get_context("spawn"), _begin) as pool:
        describe_all = partial(_rows, pool, options.every)
        sections = [source(describe_all) for source in SOURCES]
    found = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if options.every > 1:
        return _check_rows(sections, found)
    page = render(sections)
    if not options.check:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
        return 0
    difference = difflib.unified_diff(found.splitlines(), page.splitlines(), str(PAGE), "from the code", lineterm="")
    print("\n".join(difference), end="")
    return int(found != page)


def _check_rows(sections: list[Section], page: str) -> int:
    """Show which rows of some sections a page does not have; return the exit code."""
    lines = set(page.splitlines())
    rows = [line for section in sections for line in _section_lines(section) if line.startswith(("| ", "- "))]
    missing = [line for line in rows if line not in lines]
    print("\n".join(missing), end="")
    return int(bool(missing))


def render(sections: list[Section]) -> str:
    """Return the page as Markdown."""
    return "\n".join([INTRODUCTION, *(line for section in sections for line in _section_lines(section))])


def transformers_section(describe_all: DescribeAll) -> Section:
    """Describe every entry of transformers' mapping of image classifiers but timm's wrapper."""
    names = sorted(set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) - {"timm_wrapper"})
    rows, refused = describe_all(_transformers_row, names)
    note = (
        "Every image classifier of transformers, in its default configuration. The first class stands for an "
        "architecture that has several."
    )
    return Section("transformers", note, rows, refused)


def headless_section(describe_all: DescribeAll) -> Section:
    """Describe every vision model of `AutoModel` that transformers has no image classifier for."""
    rows, refused = describe_all(_headless_row, headless_types())
    refused = {model_type: reason.partition(": ")[2] for model_type, reason in refused.items()}
    note = (
        "Every vision model that `AutoModel` loads and transformers has no image classifier for, in its default "
        f"configuration. *As ...* is loaded by stock transformers; of the others the checkpoint brings `{CODE}` along, "
        "see [backbones.md](backbones.md)."
    )
    return Section("Backbones without a classifier", note, rows, refused)


def timm_section(describe_all: DescribeAll) -> Section:
    """Describe every family of timm, which is a module of its models, through its smallest member."""
    sys.path.insert(0, str(ROOT / "tests"))
    from timm_models import REFUSED, SMALLEST

    total = len(timm.list_models())
    refused = ", ".join(f"`{name}`" for name in REFUSED)
    note = (
        "timm inside transformers' wrapper: each family through its smallest member, at the image size of its "
        f"pretrained weights. Of the {total} architectures that timm {timm.__version__} lists, {total - len(REFUSED)} "
        f"resolve. The others are encoders that timm gives no classifier: {refused}."
    )
    return Section("timm's families", note, *describe_all(_timm_row, SMALLEST))


def _rows(
    pool: Executor, every: int, describe_one: Callable[[str], Row], names: Iterable[str]
) -> tuple[list[Row], dict[str, str]]:
    """Describe every n-th architecture in processes of one thread each, since small models gain nothing from more.

    Returns:
        The rows, and by name why others are refused.
    """
    listed = list(names)[::every]
    found = list(pool.map(partial(_row_or_reason, describe_one), listed))
    refused = {name: each for name, each in zip(listed, found, strict=True) if isinstance(each, str)}
    return [each for each in found if isinstance(each, Row)], refused


def _begin() -> None:
    sys.path.insert(0, str(ROOT / "tests"))  # the small models are the test suite's; scripts are never installed
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _row_or_reason(describe_one: Callable[[str], Row], name: str) -> Row | str:
    try:
        return describe_one(name)
    except UnsupportedModelError as error:
        return str(error)


SOURCES: tuple[Callable[[DescribeAll], Section], ...] = (transformers_section, headless_section, timm_section)


def cache_bytes(model: PreTrainedModel, phase: Phase, inputs: Inputs, small: Split) -> int:
    """Return the bytes that one image takes in the cache of a model that is too large to run.

    Args:
        model: without weights, on the meta device or filled with zeros.
        phase: of a plan for that model.
        inputs: one image on the same device.
        small: the split of a small model of the same architecture, which says which outputs are kept.
    """
    _, prefix = find_boundary(model, phase, inputs)
    shapes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for call in record_calls(model, inputs):
        shapes[call.name] += call.shapes
    total = 0
    for leaf in small.leaves:
        name, _, index = leaf.key.partition(":")
        if name == "input":
            shape = tuple(inputs[index].shape)
        else:
            # Depths differ between the two models, so a module is known by how far it lies from the boundary.
            shape = shapes[prefix[small.prefix.index(name) - len(small.prefix)]][int(index or 0)]
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def describe(name: str, model: PreTrainedModel, inputs: Inputs, small: PreTrainedModel, small_inputs: Inputs) -> Row:
    """Describe one architecture.

    Args:
        name: what the table calls it.
        model: in the configuration whose shares and bytes are wanted, without weights.
        inputs: one image on the model's device, of shape (1, ...).
        small: a model of the same architecture that can run.
        small_inputs: at least two images for it.
    """
    anatomy = find_anatomy(model)
    phase = make_plan(model, anatomy, POLICY, epochs=1).phases[0]
    split, replay, shortcut = _measure(small, small_inputs)
    last = {name for name, _ in model.named_parameters() if any(covers(part, name) for part in anatomy.blocks[-1])}
    return Row(
        name=name,
        plugin=find_plugin(backbone_of(model.config).model_type).name,
        input=" x ".join(str(side) for side in next(iter(inputs.values())).shape[1:]),
        blocks=len(anatomy.blocks),
        last_block=_shortened(anatomy.blocks[-1]),
        share=count_parameters(model, last) / sum(parameter.numel() for parameter in model.parameters()),
        cache_bytes=cache_bytes(model, phase, inputs, split) if split else 0,
        replay=replay,
        shortcut=shortcut,
    )


def _transformers_row(model_type: str) -> Row:
    found = find_plugin(model_type)
    if isinstance(found.plugin, TablePlugin) and model_type in found.plugin.refused:
        raise UnsupportedModelError(found.plugin.refused[model_type])
    from small_models import small_model

    model = default_model(model_type)
    return describe(model_type, model, default_inputs(model), *small_model(model_type))


def _headless_row(model_type: str) -> Row:
    from small_models import small_headed

    config, _ = classifier_config(CONFIG_MAPPING[model_type]())
    own = config.model_type == HEADED
    model = _without_weights(config.model_type, lambda: AutoModelForImageClassification.from_config(config))
    name = f"{model_type}, {config.pooling}" if own else f"{model_type} as {config.model_type}"
    return describe(name, model, default_inputs(model), *small_headed(model_type))


def _timm_row(family: str) -> Row:
    from timm_models import SMALLEST, small_timm, wrapped

    architecture = SMALLEST[family]
    with torch.device("meta"):
        model = wrapped(architecture).eval()
        inputs = {"pixel_values": torch.zeros(1, *model.timm_model.pretrained_cfg["input_size"])}
    return describe(f"{family}: {architecture}", model, inputs, *small_timm(family))


def default_model(model_type: str) -> PreTrainedModel:
    """Build an architecture in its default configuration, on the meta device if it can run there."""
    names = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    build: Callable[[Any], PreTrainedModel] = getattr(transformers, names if isinstance(names, str) else names[0])
    return _without_weights(model_type, lambda: build(CONFIG_MAPPING[model_type]()))


def _without_weights(model_type: str, build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu" if model_type in READS_VALUES else "meta")
    for tensor in model.state_dict().values():
        tensor.zero_()
    model.eval()
    return model


def default_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return inputs on the model's device for one image, at the size that the configuration states or else 224."""
    config = model.config
    backbone = backbone_of(config)
    vision = getattr(backbone, "vision_config", backbone)
    with torch.device(model.device):
        if config.model_type == "imagegpt":
            return {"input_ids": torch.zeros(1, config.n_positions, dtype=torch.long)}
        if config.model_type == "siglip2":
            return {
                "pixel_values": torch.zeros(1, vision.num_patches, vision.num_channels * vision.patch_size**2),
                "pixel_attention_mask": torch.ones(1, vision.num_patches, dtype=torch.int32),
                "spatial_shapes": torch.full((1, 2), math.isqrt(vision.num_patches)),
            }
        size = getattr(vision, "image_size", 224) or 224
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.zeros(1, 3, height, width)}


def _measure(model: PreTrainedModel, inputs: Inputs) -> tuple[Split | None, str, str]:
    """Return a model's split, whether its replay is exact or why not, and whether it takes the shortcut."""
    anatomy = find_anatomy(model)
    shortcut = "no" if anatomy.class_token is None or refusal(model, anatomy, inputs) else "yes"
    phase = make_plan(model, anatomy, POLICY, epochs=1).phases[0]
    freeze(model, phase)
    try:
        return split_model(model, phase, inputs), "exact", shortcut
    except SplitError as error:
        return None, str(error), shortcut


def _shortened(names: tuple[str, ...]) -> str:
    shown = [f"`{name}`" for name in names]
    return ", ".join(shown) if len(names) <= 2 else f"{shown[0]} to {shown[-1]} ({len(names)} modules)"


def _section_lines(section: Section) -> Iterator[str]:
    total = len(section.rows) + len(section.refused)
    yield f"## {section.title}: {len(section.rows)} of {total}\n\n{section.note}\n"
    yield "| Architecture | Plugin | Input | Blocks | Last block | Share | Cache | Replay | Shortcut |"
    yield "|---|---|---|--:|---|--:|--:|---|---|"
    for row in section.rows:
        cache = f"{row.cache_bytes / 1024:.1f} KiB" if row.cache_bytes else ""
        cells = (row.name, row.plugin, row.input, str(row.blocks), row.last_block, f"{row.share:.1%}", cache)
        yield f"| {' | '.join((*cells, row.replay, row.shortcut))} |"
    if section.refused:
        yield "\nNot supported:\n"
    yield from (f"- **{name}**: {reason}." for name, reason in section.refused.items())
    yield ""


if __name__ == "__main__":
    sys.exit(main())
