"""Imports go one way, and importing hfft or asking for help loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLKIT = {"hfft.plugin", "hfft.table"}
"""What a plugin may import: the contract, and the table-driven way of fulfilling it."""


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "hfft":
                yield from (
                    f"hfft.{alias.name}" for alias in node.names if (ROOT / "hfft" / f"{alias.name}.py").exists()
                )


def graph() -> dict[str, set[str]]:
    """Imports between hfft's own modules."""
    modules = {path.stem: path for path in (ROOT / "hfft").glob("*.py")}
    return {
        name: {target.split(".")[1] for target in imports(path) if target.startswith("hfft.")}
        for name, path in modules.items()
    }


def test_core_imports_no_plugin_script_or_app() -> None:
    for path in (ROOT / "hfft").glob("*.py"):
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & {"hfft_plugins", "plugins", "scripts", "space_app", "tests"}, path


def test_plugins_import_the_toolkit_alone() -> None:
    found = 0
    for path in (ROOT / "plugins").glob("*.py"):
        ours = {name for name in imports(path) if name.split(".")[0] in {"hfft", "hfft_plugins", "plugins"}}
        assert ours <= TOOLKIT, path
        found += len(ours)
    assert found


LAYERS = [
    {"cli"},
    {"job", "results", "sweep"},
    {"prepare", "planning", "trainer"},
    {"freezing", "split", "cache", "data", "metrics", "policies", "registry"},
    {"plugin", "arguments", "errors"},
]


def test_each_layer_imports_downwards() -> None:
    edges = graph()
    for upper, layer in enumerate(LAYERS):
        above: set[str] = set().union(*LAYERS[:upper])
        for name in layer & edges.keys():
            assert not edges[name] & above, f"{name} imports {edges[name] & above}"


def test_no_import_goes_in_a_circle() -> None:
    edges = graph()
    deferred = {
        ("job", "results"),
        ("exactness", "split"),
        ("data", "formats"),
        ("baselines", "job"),
        ("baselines", "phases"),
        ("phases", "job"),
        ("run_state", "job"),
        ("space", "cli"),
        ("unforeseen", "job"),
    }
    """Inside a function or for type checks alone: job calls results and data calls formats, both of which build
    on them; exactness names split's types; the full baseline is a run of its own; the Space
    is a command that runs another."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in edges.get(name, set()):
                if (name, target) not in deferred:
                    visit(target, (*trail, name))
            done.add(name)

    for module in edges:
        visit(module, ())


HEAVY = ("torch", "transformers", "timm", "datasets", "matplotlib", "gradio", "sklearn")


@pytest.mark.parametrize("program", ["import hfft", "from hfft.cli import main; main(['--help'])", "import hfft.cli"])
def test_nothing_heavy_is_imported(program: str) -> None:
    check = f"{program}\nimport sys; print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_core_names_no_architecture() -> None:
    """Model types belong to plugins; the wrappers that the embedded default and image processors need are excepted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    allowed = {"timm_wrapper"}
    for path in (ROOT / "hfft").glob("*.py"):
        strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not strings & (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.keys() - allowed), path
