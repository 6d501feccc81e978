"""What import-linter does not say: imports at the door are light, and the core names no architecture."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "timm", "datasets", "matplotlib", "gradio", "sklearn")


@pytest.mark.parametrize("program", ["import hfft", "from hfft.cli import main; main(['--help'])", "import hfft.cli"])
def test_nothing_heavy_is_imported(program: str) -> None:
    check = f"{program}\nimport sys; print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_core_names_no_architecture() -> None:
    """Model types belong to plugins; the wrappers that the embedded default and image processors need are excepted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    allowed, read = {"timm_wrapper"}, 0
    for path in (ROOT / "hfft").rglob("*.py"):
        strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not strings & (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.keys() - allowed), path
        read += 1
    assert read > 50
