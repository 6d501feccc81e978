"""Programs get from a folder to an answer in at most four calls."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from scripted import load_script

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("agent_tasks")


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
