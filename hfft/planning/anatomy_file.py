"""Anatomies by hand: read from YAML, written to YAML, and a starting point found from a recorded forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from hfft.errors import PluginError, one_line
from hfft.models.forward import Call, Inputs, record_calls
from hfft.plugin.contract import Anatomy, ClassTokenBlock, TokenLayout, covers
from hfft.plugin.patterns import expand, expand_blocks, known_names

KEYS = ("stem", "blocks", "neck", "head", "tokens", "class_token", "projections")
NEEDED = ("blocks", "head")

HEADER = """\
# The parts of a model, for --anatomy. `*` stands for one part of a name: encoder.stages.* is one block for
# each stage. A block may be a list of patterns, which then advance together. Each parameter and each buffer
# belongs under exactly one name.
"""


def load_anatomy(path: str | Path, model: nn.Module) -> Anatomy:
    """Read an anatomy from a YAML file and hold it against a model.

    The keys are those of `Anatomy`; ``blocks`` and ``head`` are needed. Each part is a pattern or a list of
    them (see `hfft.plugin.patterns`); an entry of ``blocks`` may itself be a list.

    Raises:
        PluginError: the file cannot be read, or a key is unknown, missing, of the wrong type or does not fit
            the model; the message names the file and the key.
    """
    data = _read(Path(path))
    names = known_names(model)
    readers: dict[str, Callable[[Any], Any]] = {
        "stem": lambda value: expand(names, _entries(value)),
        "blocks": lambda value: expand_blocks(names, _entries(value, nested=True)),
        "neck": lambda value: expand(names, _entries(value)),
        "head": lambda value: expand(names, _entries(value)),
        "tokens": _token_layout,
        "class_token": _class_token,
        "projections": lambda value: tuple(_entries(value)),
    }
    fields: dict[str, Any] = {"stem": (), "neck": ()}
    for key, value in data.items():
        try:
            fields[key] = readers[key](value)
        except (PluginError, TypeError) as error:
            raise PluginError(f"{path}: {key}: {error}") from error
    anatomy = Anatomy(**fields)
    try:
        check_anatomy(anatomy, model)
    except PluginError as error:
        raise PluginError(f"{path} does not fit {type(model).__name__}: {error}") from error
    return anatomy


def dump_anatomy(anatomy: Anatomy) -> str:
    """Return an anatomy as YAML that `load_anatomy` reads back."""
    data = asdict(anatomy)
    kept = [key for key in KEYS if data[key] is not None and (data[key] or key != "projections")]
    plain = {key: _plain(data[key]) for key in kept}
    return f"{HEADER}{yaml.safe_dump(plain, sort_keys=False, width=120)}"


def check_anatomy(anatomy: Anatomy, model: nn.Module) -> None:
    """Hold an anatomy against a model: every name exists, every tensor is in exactly one part, no block is empty.

    Raises:
        PluginError: naming the first names, tensors or parts that do not fit.
    """
    if not anatomy.blocks or not anatomy.head:
        raise PluginError("the anatomy has no blocks or no head; both are needed")
    tensors = _tensor_names(model)
    known = {name for name, _ in model.named_modules(remove_duplicate=False)} | set(tensors)
    missing = [name for _, names in anatomy.parts() for name in names if name not in known]
    if missing:
        raise PluginError(f"the anatomy names {_some(missing)}, which {type(model).__name__} does not have")
    part_of = {tensor: anatomy.part_of(tensor) for tensor in tensors}
    filled = {part_of[name] for name, _ in model.named_parameters()}
    empty = [label for label, _ in anatomy.parts() if label not in {"stem", "neck", *filled}]
    if empty:
        raise PluginError(f"no parameter lies in {', '.join(empty)}")


def anatomy_from_dict(data: dict[str, Any]) -> Anatomy:
    """Build an anatomy from what `dataclasses.asdict` made of one.

    Raises:
        PluginError: a key is missing, unknown or of the wrong type.
    """
    try:
        return Anatomy(
            stem=_names(data["stem"]),
            blocks=tuple(_names(block) for block in data["blocks"]),
            neck=_names(data["neck"]),
            head=_names(data["head"]),
            tokens=_token_layout(data.get("tokens")),
            class_token=_class_token(data.get("class_token")),
            projections=_names(data.get("projections", ())),  # records of earlier versions have none
        )
    except (KeyError, TypeError) as error:
        raise PluginError(f"this is not an anatomy: {type(error).__name__} {error}") from error


def suggest_anatomy(model: nn.Module, inputs: Inputs) -> Anatomy:
    """Find a starting point for an anatomy from one recorded forward.

    The head is the last linear layer that runs, with others of the same width beside it. The blocks are the
    children of the list or sequence that holds most parameters and runs its children one after another;
    children of one resolution are joined. What runs before the first block is the stem, what runs between
    two blocks belongs to the later one, and the rest is the neck.

    Args:
        model: any image classifier.
        inputs: at least one image.

    Returns:
        A true partition of the model. Whether its blocks are the right ones is for a person to say.

    Raises:
        PluginError: there is no linear layer, or no such list.
    """
    first: dict[str, Call] = {}
    for call in record_calls(model, inputs):
        first.setdefault(call.name, call)
    head = _last_linear(model, first)
    children = _running_list(model, first, head)
    starts = [_span(first, names[0])[0] for names in children]
    heads = _beside(model, first, head, _span(first, children[-1][-1])[1])
    labels = {tensor: _label(tensor, first, children, starts, heads) for tensor in _tensor_names(model)}
    grouped = _coarsest(model, labels)
    anatomy = Anatomy(
        stem=grouped.get("stem", ()),
        blocks=tuple(grouped[str(index)] for index in range(len(children))),
        neck=grouped.get("neck", ()),
        head=grouped["head"],
    )
    check_anatomy(anatomy, model)
    return anatomy


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PluginError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise PluginError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise PluginError(f"{path} holds no keys; it needs {', '.join(NEEDED)}")
    if unknown := [_shown(key) for key in data if key not in KEYS]:
        raise PluginError(f"{path}: unknown key {', '.join(unknown)}; known are {', '.join(KEYS)}")
    if missing := [key for key in NEEDED if not data.get(key)]:
        raise PluginError(f"{path}: {missing[0]}: missing or empty")
    return data


def _shown(key: object) -> str:
    """A key as an error names it, on one line and visible."""
    return str(key) if str(key).isprintable() and str(key).strip() else repr(key)


def _token_layout(value: Any) -> TokenLayout | None:
    """Build a layout of tokens; a TypeError says what is wrong with it."""
    if value is None:
        return None
    layout = TokenLayout(**value)
    if not isinstance(layout.grid, list | tuple):
        raise TypeError(f"expected a grid of rows and columns, found {layout.grid!r}")
    counts = (*layout.grid, layout.prefix)
    if len(counts) != 3 or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise TypeError(f"expected a grid of rows and columns, and a prefix, in whole numbers, found {value!r}")
    if not all(isinstance(flag, bool) for flag in (layout.class_token, layout.earlier)):
        raise TypeError(f"expected yes or no for class_token and earlier, found {value!r}")
    return replace(layout, grid=(layout.grid[0], layout.grid[1]))


def _class_token(value: Any) -> ClassTokenBlock | None:
    """Build the modules of a class token's block; a TypeError says what is wrong with them."""
    if value is None:
        return None
    found = ClassTokenBlock(**value)
    names = {name: item for name, item in vars(found).items() if name not in ("heads", "mlp")}
    if not isinstance(found.heads, int) or not all(isinstance(name, str) for name in names.values()):
        raise TypeError(f"expected a number of heads and names of modules, found {value!r}")
    return replace(found, mlp=_names(found.mlp))


def _entries(value: Any, nested: bool = False) -> list[Any]:
    """Return a part's patterns as a list; with `nested`, an entry may be a list of patterns."""
    entries = [value] if isinstance(value, str) else value
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise TypeError(f"expected a name or a list of names, found {value!r}")
    for entry in entries:
        if nested and isinstance(entry, list) and entry:
            _entries(entry)
        elif not isinstance(entry, str) or not entry:
            raise TypeError(f"expected a name, found {entry!r}")
    return entries


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which YAML writes without tags."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _tensor_names(model: nn.Module) -> list[str]:
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return [name for name, _ in tensors]


def _last_linear(model: nn.Module, first: Mapping[str, Call]) -> str:
    linear = [name for name in _linears(model) if name in first]
    if not linear:
        raise PluginError("no linear layer runs, so there is no head to find")
    return max(linear, key=lambda name: first[name].start)


def _beside(model: nn.Module, first: Mapping[str, Call], head: str, blocks_end: int) -> set[str]:
    """Return the head and the other linear layers of its width that run after the last block."""
    linear = {name: module for name, module in _linears(model).items() if name in first}
    width = linear[head].out_features
    return {name for name, m in linear.items() if first[name].start > blocks_end and m.out_features == width}


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _running_list(model: nn.Module, first: Mapping[str, Call], head: str) -> list[list[str]]:
    """Return the names of the blocks: children of one list, joined where they share a resolution."""
    best: list[str] = []
    most = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or covers(name, head) or not name:
            continue
        children = [f"{name}.{child}" for child, _ in module.named_children()]
        size = sum(parameter.numel() for parameter in module.parameters())
        holding = [child for child in children if next(model.get_submodule(child).parameters(), None) is not None]
        if len(holding) > 1 and size > most and _one_after_another(first, holding):
            best, most = children, size
    if not best:
        raise PluginError("no list of modules runs one after another, so there are no blocks to find")
    return _join_by_resolution(model, first, best)


def _one_after_another(first: Mapping[str, Call], names: Iterable[str]) -> bool:
    spans = [_span(first, name) for name in names]
    return all(start >= 0 for start, _ in spans) and all(end < start for (_, end), (start, _) in pairwise(spans))


def _span(first: Mapping[str, Call], name: str) -> tuple[int, int]:
    """Return the first enter and the last exit among a module's and its children's first calls; -1 if none."""
    calls = [call for called, call in first.items() if covers(name, called)]
    return min((call.start for call in calls), default=-1), max((call.end for call in calls), default=-1)


def _join_by_resolution(model: nn.Module, first: Mapping[str, Call], names: list[str]) -> list[list[str]]:
    """Join neighbours whose feature maps have one height and width; drop those without parameters at either end."""
    joined: list[tuple[tuple[int, ...], list[str]]] = []
    for name in names:
        size = first[name].shape[2:] if name in first and len(first[name].shape) == 4 else ()
        if joined and size and joined[-1][0] == size:
            joined[-1][1].append(name)
        else:
            joined.append((size, [name]))
    kept = [
        [name for name in group if any(True for _ in model.get_submodule(name).parameters())] for _, group in joined
    ]
    return [group for group in kept if group]


def _label(tensor: str, first: Mapping[str, Call], blocks: list[list[str]], starts: list[int], heads: set[str]) -> str:
    """Return the part of a tensor: stem, a block's index, neck or head."""
    if any(covers(name, tensor) for name in heads):
        return "head"
    for index, names in enumerate(blocks):
        if any(covers(name, tensor) for name in names):
            return str(index)
    owner = tensor.rpartition(".")[0]
    while owner not in first:
        owner = owner.rpartition(".")[0]
    after = [index for index, start in enumerate(starts) if start > first[owner].start]
    if not after:
        return "neck"
    return str(after[0]) if after[0] else "stem"


def _coarsest(model: nn.Module, labels: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Name each part by the fewest modules that hold its tensors and no others."""
    grouped: dict[str, list[str]] = {}

    def visit(name: str, module: nn.Module) -> None:
        below = {label for tensor, label in labels.items() if not name or covers(name, tensor)}
        if len(below) == 1 and name:
            grouped.setdefault(below.pop(), []).append(name)
        elif below:
            prefix = f"{name}." if name else ""
            for tensor in (t for t in labels if t.startswith(prefix) and "." not in t[len(prefix) :]):
                grouped.setdefault(labels[tensor], []).append(tensor)
            for child, inner in module.named_children():
                visit(f"{prefix}{child}", inner)

    visit("", model)
    return {label: tuple(names) for label, names in grouped.items()}


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise TypeError(f"expected a list of names, found {value!r}")
    if not all(isinstance(name, str) for name in value):
        raise TypeError(f"expected a list of names, found {value!r}")
    return tuple(value)


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
