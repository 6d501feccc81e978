"""Where a timm model's parts are, by timm's own description of its structure.

timm models say where their parts are: `group_matcher` names the stem and the blocks, `feature_info` where
stages end, `get_classifier` the head. This module turns that into names. What no model declares follows
from order: a module registered before the first block belongs to the stem, one after it to the neck.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hfft.plugin import Anatomy, ClassTokenBlock, TokenLayout, UnsupportedModelError

NOTHING = "(?!)"
"""The pattern that matches no name."""

Part = str | tuple[float, ...]
"""``stem``, ``neck``, ``head``, or a block: its pattern's index, then what the pattern's groups matched."""


@dataclass(frozen=True)
class Shape:
    """Which names of a timm model belong where: regular expressions, matched at the start of a name.

    Args:
        blocks: names that agree in a pattern and in its (whole-number) groups are one block.
        stem: names that order alone would put elsewhere; `neck` and `head` likewise.
        neck: see `stem`.
        head: see `stem`; what `get_classifier` returns needs no pattern.
        stages: the blocks are to be cut anew, where `feature_info` says that stages end.
    """

    blocks: tuple[str, ...] = ()
    stem: str = NOTHING
    neck: str = NOTHING
    head: str = NOTHING
    stages: bool = False

    def part(self, name: str) -> Part | None:
        """Return the part that a name belongs to by its pattern, if any."""
        for label, pattern in (("head", self.head), ("stem", self.stem), ("neck", self.neck)):
            if re.match(pattern, name):
                return label
        for index, pattern in enumerate(self.blocks):
            if found := re.match(pattern, name):
                return (index, *(float(group) for group in found.groups()))
        return None


SHAPES: dict[str, Shape] = {
    # Class attention follows all layers of self-attention; timm's matcher lays the two lists side by side.
    "Cait": Shape((r"blocks\.(\d+)", r"blocks_token_only\.(\d+)")),
    # A serial stage owns the position encodings that the parallel layers share.
    "CoaT": Shape(
        (r"(?:cls_token|patch_embed|cpe|crpe|serial_blocks)(\d+)", "parallel_blocks"), stem="(?:cls_token|patch_embed)1"
    ),
    # Each stage but the last hands a normed state to its own head, and a learned weight joins the heads.
    "EfficientViM": Shape((r"(?:stages|norm)\.([012])\b",), head="weights"),
    "EfficientViMDistilled": Shape((r"(?:stages|norm)\.([012])\b",), head="weights"),
    # The transition in front of a stage makes its branches.
    "HighResolutionNet": Shape(("layer1", "transition1|stage2", "transition2|stage3", "transition3|stage4")),
    # A stage is several dense stages; timm declares no coarse groups.
    "RDNet": Shape(stem="stem", stages=True),
    "Twins": Shape((r"(?:patch_embeds|pos_drops|pos_block|blocks)\.(\d+)",), stem=r"patch_embeds\.0"),
    # timm's stem is the first convolution, which is conv1_1 of the stages conv1 to conv5.
    "VGG": Shape(stages=True),
    "Visformer": Shape((r"(?:stage|patch_embed|pos_embed)(\d+)",), stem="patch_embed1|pos_embed1"),
    # forward never calls the auxiliary head of token labelling, so nothing may count on its gradient.
    "VOLO": Shape((r"network\.0", r"network\.[12]\b", r"network\.(\d+)", r"post_network\.(\d+)"), stem="aux_head"),
}
"""For classes whose own declaration is missing or counts in other units than stages and layers."""

LISTS = Shape((r"(?:stages|blocks|layers|transformers)\.(\d+)",))
"""For models that declare nothing: the names that timm gives to a list of blocks."""

FOLLOWS = (99999,)
"""How a matcher says that a name joins the group before it (timm's MATCH_PREV_GROUP)."""

TOKENS = frozenset(
    {"Beit", "ConVit", "Eva", "MlpMixer", *("VisionTransformer" + kind for kind in ("", "Distilled", "RelPos"))}
)
"""Classes whose last block returns (batch, tokens, dim): prefix tokens, then the patches row by row."""


def anatomy(model: PreTrainedModel) -> Anatomy:
    """Return the anatomy of a timm model inside transformers' TimmWrapper.

    Raises:
        UnsupportedModelError: it has no classifier, or timm names none of its blocks.
    """
    inner = model.get_submodule("timm_model")
    if not hasattr(inner, "get_classifier"):
        raise UnsupportedModelError(f"{model.config.architecture} is an encoder that timm gives no classifier")
    shape = SHAPES.get(type(inner).__name__) or declared_shape(inner)
    parts = name_parts(inner, cut_at_stages(inner, shape) if shape.stages else shape)
    blocks = [parts[part] for part in sorted(part for part in parts if isinstance(part, tuple))]
    if not blocks:
        raise UnsupportedModelError(
            f"timm names no block of {model.config.architecture}; update timm, or describe it with --anatomy FILE.yaml"
        )
    top = blocks.pop() if is_top_convolution(inner, blocks[-1]) else ()
    return Anatomy(
        stem=_outer(parts.get("stem", ())),
        blocks=tuple(map(_outer, blocks)),
        neck=_outer((*top, *parts.get("neck", ()))),
        head=_outer(parts.get("head", ())),
        tokens=token_layout(inner),
        class_token=class_token_block(inner, blocks[-1]),
    )


def declared_shape(model: nn.Module) -> Shape:
    """Return the shape that a model's `group_matcher` declares."""
    matcher: Any = model.group_matcher(coarse=True) if hasattr(model, "group_matcher") else None  # type: ignore[operator]
    if matcher is None:
        return LISTS
    if callable(matcher):  # timm's group 0 is the stem; the other groups count single convolutions
        stem = [name for name, _ in model.named_children() if matcher(f"{name}.") == 0]
        return Shape(stem=_any_of(stem), stages=True)
    blocks: list[str] = []
    neck: list[str] = []
    for key, spec in matcher.items():
        for pattern, suffix in [(spec, None)] if isinstance(spec, str) else spec:
            if key != "stem":
                (neck if suffix == FOLLOWS else blocks).append(pattern)
    shape = Shape(tuple(blocks), stem=matcher["stem"], neck="|".join(neck) or NOTHING)
    return replace(shape, stages=counts_layers(model, shape))


def counts_layers(model: nn.Module, shape: Shape) -> bool:
    """Return whether the matcher of a hierarchical model counts the layers of its stages, not the stages."""
    blocks: dict[Part, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(part := shape.part(name), tuple):
            blocks.setdefault(part, module)
    ends = feature_ends(model)
    layers = not any(isinstance(module, nn.Sequential) for module in list(blocks.values())[:1])
    return layers and len(blocks) > len(ends) and len(set(ends.values())) > 1


def feature_ends(model: nn.Module) -> dict[str, int]:
    """Return ``{module name: reduction}`` of timm's features, one for each stage or layer."""
    info: Any = getattr(model, "feature_info", ())
    return {feature["module"]: feature["reduction"] for feature in info}


def cut_at_stages(model: nn.Module, shape: Shape) -> Shape:
    """Return a shape whose blocks run from one of timm's features to the next.

    A feature taken inside a module, before its stride, ends the stage in front of that module.
    """
    ends = feature_ends(model)
    units = [name for name in _units(model, ends) if shape.part(name) != "stem"]
    last = max(index for index, name in enumerate(units) if name in ends)
    stages: list[list[str]] = []
    ended = True
    for name in units[: last + 1]:
        if not _has_tensors(model.get_submodule(name)):  # a pooling belongs to the stage in front of it
            stages[-1:] = [[*stage, name] for stage in stages[-1:]]
        elif ended or any(end.startswith(f"{name}.") for end in ends):
            stages.append([name])
            ended = False
        else:
            stages[-1].append(name)
        ended = ended or name in ends
    return replace(shape, blocks=tuple(map(_any_of, stages)))


def name_parts(model: nn.Module, shape: Shape) -> dict[Part, tuple[str, ...]]:
    """Return the names of each part: as few as cover its tensors, none of a module that is never called."""
    heads = _classifiers(model)
    order: Part = "stem"

    def place(name: str) -> Part:
        nonlocal order
        part = "head" if _is_within(name, heads) else shape.part(name)
        if isinstance(part, tuple) and "." in name:  # the model's own parameters come first whatever their part
            order = "neck"
        return part or order

    def fold(name: str, module: nn.Module) -> list[tuple[str, Part]]:
        below = f"{name}." if name else ""
        if not _has_tensors(module):
            return [(name, part)] if isinstance(part := shape.part(name), tuple) else []
        found = [(below + tensor, place(below + tensor)) for tensor in _own_tensors(module)]
        for child_name, child in module.named_children():
            found += fold(below + child_name, child)
        several = len({part for _, part in found}) > 1 or isinstance(module, nn.ModuleList)
        beyond = found[0][1] == "head" and not _is_within(name, heads)  # around the classifier, as a dropout may be
        return found if several or beyond else [(name, found[0][1])]

    parts: dict[Part, tuple[str, ...]] = {}
    for name, part in fold("", model):
        parts[part] = (*parts.get(part, ()), name)
    return parts


def is_top_convolution(model: nn.Module, names: tuple[str, ...]) -> bool:
    """Return whether a block is a lone pointwise convolution, as EfficientNet's conv_head is outside its blocks."""
    convolutions = [
        module for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and _is_within(name, names)
    ]
    return len(convolutions) == 1 and convolutions[0].kernel_size == (1, 1)


def token_layout(model: Any) -> TokenLayout | None:
    """Return how the last block's tokens lie on the image, for plain transformers and Hiera."""
    if type(model).__name__ == "Hiera":  # until its last pooling, patches stand in the order in which they are pooled
        sides = zip(model.tokens_spatial_shape, model.q_stride, strict=True)
        rows, columns = (side // pool**model.q_pool for side, pool in sides)
        return TokenLayout((rows, columns), earlier=False)
    if type(model).__name__ not in TOKENS:
        return None
    embed = getattr(model, "patch_embed", None) or model.stem
    rows, columns = map(int, embed.grid_size)
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    return TokenLayout((rows, columns), prefix, class_token=not prefix or model.cls_token is not None)


def class_token_block(model: Any, names: tuple[str, ...]) -> ClassTokenBlock | None:
    """Return the modules of the last block where the head reads its class token and nothing else."""
    if type(model).__name__ != "VisionTransformer" or model.global_pool != "token" or not model.has_class_token:
        return None
    block: Any = model.get_submodule(names[0])
    random = any(isinstance(module, nn.Dropout) and module.p for module in block.modules())
    plain = type(block).__name__ == "Block" and type(block.attn).__name__ == "Attention"
    if not plain or random or model.attn_pool is not None:
        return None
    idle = (block.attn.norm, getattr(block.attn, "gate", None) or nn.Identity(), block.drop_path1, block.drop_path2)
    if not all(isinstance(module, nn.Identity) for module in idle):
        return None
    return ClassTokenBlock(
        heads=block.attn.num_heads,
        norm1="norm1",
        qkv="attn.qkv",
        q_norm="attn.q_norm",
        k_norm="attn.k_norm",
        proj="attn.proj",
        scale1="ls1",
        norm2="norm2",
        mlp=("mlp",),
        scale2="ls2",
    )


def _classifiers(model: Any) -> list[str]:
    found = model.get_classifier()
    wanted = found if isinstance(found, tuple | list) else (found,)
    return [name for name, module in model.named_modules() if any(module is one for one in wanted)]


def _is_within(name: str, modules: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _units(model: nn.Module, ends: Iterable[str]) -> Iterator[str]:
    """Yield the model's children, and for a list that holds features its children instead."""
    for name, child in model.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList) and any(end.startswith(f"{name}.") for end in ends):
            yield from (f"{name}.{below}" for below, _ in child.named_children())
        else:
            yield name


def _own_tensors(module: nn.Module) -> Iterator[str]:
    for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield name


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _any_of(names: Iterable[str]) -> str:
    return rf"(?:{'|'.join(map(re.escape, names))})\b"


def _outer(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"timm_model.{name}" for name in names)
