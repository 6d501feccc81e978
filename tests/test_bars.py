"""Progress bars: drawn on a terminal, and all of them silenced by one flag."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from finished import make_images, make_model
from transformers.utils.notebook import NotebookProgressCallback

import hfft.bars
from hfft.bars import bar, silenced
from hfft.cli import main


class Terminal(io.StringIO):
    """A standard error that somebody looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hfft.bars, "_PATIENCE", 0.0)


def drawn(*argv: str) -> str:
    """Run a command that must succeed; return what it drew on a terminal."""
    with redirect_stderr(Terminal()) as terminal:
        assert main(list(argv)) == 0
    return terminal.getvalue()


def flags(folder: Path, *more: str) -> list[str]:
    images, base = make_images(folder / "images", count=6), make_model(folder / "base")
    places = ["--train_dir", images, "--validation_dir", images, "--output_dir", folder / "run"]
    places += ["--model_name_or_path", base, "--cache_dir", folder / "cache", "--num_train_epochs", 1, "--use_cpu"]
    return [*map(str, places), "--figures", "false", "--report_to", "none", *more]


def test_a_run_draws_bars_on_a_terminal(tmp_path: Path) -> None:
    shown = drawn("finetune", *flags(tmp_path))
    for name in ("Frozen prefix", "Linear probe, train images", "Linear probe, fits", "Training"):
        assert name in shown


def test_a_notebook_shows_no_second_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook the Trainer adds another callback, which draws a table for each training and each fold."""
    monkeypatch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", NotebookProgressCallback)
    begun: list[object] = []
    monkeypatch.setattr(NotebookProgressCallback, "on_train_begin", lambda *told, **more: begun.append(told))
    drawn("finetune", *flags(tmp_path))
    assert not begun


def test_who_waits_for_libraries_is_told_so_and_the_line_goes() -> None:
    shown = drawn("plan", "--policy", "head")
    assert shown.startswith("\rLoading PyTorch and transformers")
    assert not shown.rpartition("\r")[2].strip()


@pytest.mark.parametrize(
    "command",
    [
        ["finetune"],
        ["sweep", "--sweep", "learning_rate=0.001"],
        ["advise", "--policies", "head,last_block"],
        ["cache", "fill"],
    ],
    ids=lambda command: command[0],
)
def test_disable_tqdm_silences_all_of_them(command: list[str], tmp_path: Path) -> None:
    assert "%|" not in drawn(*command, *flags(tmp_path, "--disable_tqdm", "true"))


def test_a_sweep_shows_the_filling_and_not_each_training(tmp_path: Path) -> None:
    shown = drawn("sweep", "--sweep", "learning_rate=0.001", *flags(tmp_path))
    assert "Frozen prefix" in shown
    assert "Training" not in shown


def test_nothing_is_drawn_where_nobody_looks() -> None:
    def count(stream: io.StringIO) -> str:
        with redirect_stderr(stream):
            assert list(bar([1, 2], desc="Count")) == [1, 2]
        return stream.getvalue()

    assert "Count" in count(Terminal())
    with silenced(True), silenced(False):  # the outermost decides
        assert count(Terminal()) == ""
    assert "Count" in count(Terminal())
    assert count(io.StringIO()) == ""


def test_a_bar_is_drawn_while_its_first_item_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hfft.bars, "_PATIENCE", 0.01)
    with redirect_stderr(Terminal()) as terminal:
        seen = []
        for _ in bar(["slow"], desc="One by one"):
            while "One by one:   0%" not in terminal.getvalue():
                time.sleep(0.01)
            seen.append(terminal.getvalue())
    assert len(seen) == 1


def test_a_bar_that_is_over_soon_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hfft.bars, "_PATIENCE", 60.0)
    with redirect_stderr(Terminal()) as terminal:
        shown = bar(["quick"], desc="At once")
        list(shown)
        hfft.bars._draw_first(shown)  # as the clock does in the end
    assert terminal.getvalue() == ""
