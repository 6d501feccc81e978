"""Programs get from a folder to an answer in at most four calls."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "agent_tasks.py"
    spec = importlib.util.spec_from_file_location("agent_tasks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def unsolved(script: ModuleType, names: set[str], scratch: Path) -> list[dict[str, object]]:
    runs = list(script.solved([task for task in script.TASKS if task.name in names], scratch))
    assert len(runs) == len(names)
    return [run for run in runs if not run["solved"]]


def test_there_are_twenty_and_some_are_solved(script: ModuleType, tmp_path: Path) -> None:
    assert len({task.name for task in script.TASKS}) == len(script.TASKS) == 20
    assert not unsolved(script, {"conflict", "few", "label"}, tmp_path)


@pytest.mark.slow
def test_all_are_solved(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="the extra 'mcp' is not installed")
    assert not unsolved(script, {task.name for task in script.TASKS}, tmp_path)
