"""What a model computes besides its weights: configuration, attention implementation, classes and their code."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

_LIBRARIES = {"torch", "torchvision", "transformers", "timm", "builtins", "abc", "typing"}
"""Packages whose code is known by their versions, which the cache's key holds beside this."""
_REMOTE = "transformers_modules"

# Names, labels, formats of files, and what acts in training alone, since cached modules are in eval mode.
# Numbers of classes shape the head, whose weights are trained or belong to the digest of those that are not.
_NO_MATTER = re.compile(
    r"_name_or_path|name_or_path|transformers_version|torch_dtype|dtype|architectures|auto_map|_commit_hash"
    r"|id2label|label2id|num_labels|num_classes|label_names|label_descriptions|problem_type|finetuning_task"
    r"|return_dict|output_hidden_states|output_attentions|initializer_range|gradient_checkpointing"
    r"|calibration_temperature|decision_thresholds"  # of answers, which are made of logits outside of the model
    r"|pretrained_cfg"  # timm's: where weights come from, and the preprocessing, which has a fingerprint of its own
    r"|.*dropout.*|.*drop_path.*|.*layerdrop.*|.*drop_rate.*"
)


def model_signature(model: PreTrainedModel) -> str:
    """Return a SHA-256 over everything that can change an activation besides weights, inputs and libraries."""
    modules = list(model.named_modules())
    parts = {
        "config": _canonical(model.config.to_dict()),
        "attention": {name: attention for name, module in modules if (attention := _attention(module))},
        "modules": {name: _class_name(type(module)) for name, module in modules},
        "code": sorted(set(_code({type(module) for _, module in modules}))),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items() if not _NO_MATTER.fullmatch(str(key))}
    return [_canonical(item) for item in value] if isinstance(value, list | tuple) else value


def _attention(module: nn.Module) -> str:
    return str(getattr(getattr(module, "config", None), "_attn_implementation", None) or "")


def _class_name(cls: type) -> str:
    """Name a class; a module of remote code is named after a folder or a commit, so its class alone counts."""
    remote = cls.__module__.partition(".")[0] == _REMOTE
    return cls.__qualname__ if remote else f"{cls.__module__}.{cls.__qualname__}"


def _code(classes: set[type]) -> Iterator[str]:
    """Yield a hash of each source file that defines one of the classes, or what one of them inherits."""
    for cls in {base for each in classes for base in each.__mro__}:
        if cls.__module__.partition(".")[0] in _LIBRARIES:
            continue
        for source in _sources(cls):
            yield hashlib.sha256(source).hexdigest()


def _sources(cls: type) -> list[bytes]:
    """Read the code of a class: its file, or for remote code, which comes in several, all beside it."""
    try:
        file = Path(inspect.getfile(cls))
    except (TypeError, OSError):  # typed at a prompt
        file = Path()
    if not file.is_file():
        functions = [item for item in vars(cls).values() if inspect.isfunction(item)]
        return [item.__code__.co_code + repr(item.__code__.co_names).encode() for item in functions]
    files = file.parent.rglob("*.py") if cls.__module__.partition(".")[0] == _REMOTE else [file]
    return [each.read_bytes() for each in files]
