"""The notebook runs from top to bottom on the embedded default, without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbformat", reason="nbformat is not installed")

import nbformat

from hfft.report.record import read_record

pytestmark = pytest.mark.processes

FILE = Path(__file__).parents[2] / "notebooks" / "hfft.ipynb"
QUICK = 'photos, policy, epochs, images, output = None, "head", 1, 60, "run"'


def quick() -> Any:
    """The notebook with fewer images, which is installed already."""
    notebook = nbformat.read(FILE, as_version=4)
    cells = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    cells["parameters"].source = QUICK
    return notebook


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, all but what starts another one."""
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    monkeypatch.chdir(tmp_path)
    shown: list[Any] = []
    shell.user_ns["display"] = shown.append
    shell.run_cell("import matplotlib; matplotlib.use('agg')")
    for cell in quick().cells:
        if cell.cell_type == "code" and "shell" not in cell.metadata.get("tags", ()):
            shell.run_cell(cell.source).raise_error()
    assert len(shown) >= 2
    assert read_record(tmp_path / "run" / "hfft.json").policy == "head"


@pytest.mark.slow
def test_it_runs_as_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = quick()
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 4
    assert (tmp_path / "run" / "export" / "onnx" / "model.onnx").is_file()
