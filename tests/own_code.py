"""A model whose code lies beside its weights, as repositories on the Hub bring it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from hfft.plugin.table import Row, TablePlugin

VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
MODELING = """
from transformers import ViTConfig, ViTForImageClassification
from .helpers import bend

class OwnConfig(ViTConfig):
    model_type = "own"

class OwnModel(ViTForImageClassification):
    config_class = OwnConfig
    def forward(self, pixel_values, **kwargs):
        return super().forward(bend(pixel_values), **kwargs)
"""
HELPERS = "def bend(x):\n    return x * 2\n"
ANATOMY = "stem: vit.embeddings\nblocks: vit.layers.*\nneck: vit.layernorm\nhead: classifier\n"
"""For ``--anatomy``, where no plugin speaks for the type."""


class Own(TablePlugin):
    """A plugin that speaks for the type."""

    rows: ClassVar = {"own": Row("vit.embeddings", "vit.layers.*", "vit.layernorm", "classifier")}


def make_own_code(folder: Path, **files: str) -> Path:
    """Write weights, an image processor and the code of a type that transformers does not know.

    Args:
        folder: where to.
        files: code in place of `MODELING` and `HELPERS`, by name.
    """
    folder.mkdir()
    for name, code in {"modeling": MODELING, "helpers": HELPERS, **files}.items():
        (folder / f"{name}.py").write_text(code)
    config = ViTConfig(**VIT)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    places = {"AutoConfig": "modeling.OwnConfig", "AutoModelForImageClassification": "modeling.OwnModel"}
    values = config.to_dict() | {"auto_map": places, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@contextmanager
def modules_in(folder: Path) -> Iterator[None]:
    """Have transformers copy such code into a folder, and forget it afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
        patch.setattr(sys, "path", [*sys.path])
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]
