"""The page of architectures: written from the code, and known to be current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scripted import SCRIPTS, load_script
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("architectures")


@pytest.fixture
def small_page(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    row = script.Row("net", "cnn", "3 x 8 x 8", 4, "`stages.3`", 0.5, 2048, "exact", "no")
    section = script.Section("library", "A note.", [row], {"odd": "it has no head"})
    monkeypatch.setattr(script, "SOURCES", (lambda describe_all: section,))
    monkeypatch.setattr(script, "PAGE", tmp_path / "docs" / "architectures.md")
    page: Path = script.PAGE
    return page


def test_a_section_is_a_table_and_a_list_of_refusals(script: ModuleType, small_page: Path) -> None:
    assert script.main([]) == 0
    lines = small_page.read_text().splitlines()
    assert "## library: 1 of 2" in lines
    assert "| net | cnn | 3 x 8 x 8 | 4 | `stages.3` | 50.0% | 2.0 KiB | exact | no |" in lines
    assert "- **odd**: it has no head." in lines


def test_check_accepts_what_was_written(script: ModuleType, small_page: Path) -> None:
    script.main([])
    assert script.main(["--check"]) == 0


def test_check_shows_what_differs_and_changes_nothing(
    script: ModuleType, small_page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([])
    stale = small_page.read_text().replace("50.0%", "40.0%")
    small_page.write_text(stale)
    assert script.main(["--check"]) == 1
    assert "+| net | cnn | 3 x 8 x 8 | 4 | `stages.3` | 50.0%" in capsys.readouterr().out
    assert small_page.read_text() == stale


def test_check_of_every_nth_row_looks_at_those_alone(
    script: ModuleType, small_page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([])
    small_page.write_text(small_page.read_text().replace("1 of 2", "9 of 9"))
    assert script.main(["--check", "--every", "6"]) == 0
    small_page.write_text(small_page.read_text().replace("no head", "two heads"))
    assert script.main(["--check", "--every", "6"]) == 1
    assert capsys.readouterr().out == "- **odd**: it has no head."
    with pytest.raises(SystemExit):
        script.main(["--every", "6"])


def test_check_fails_without_a_page(script: ModuleType, small_page: Path) -> None:
    assert script.main(["--check"]) == 1


def test_the_page_names_every_model_type() -> None:
    page = (ROOT / "docs" / "architectures.md").read_text()
    missing = [
        model_type
        for model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.keys() - {"timm_wrapper"}
        if f"| {model_type} |" not in page and f"**{model_type}**" not in page
    ]
    assert missing == []


@pytest.mark.slow
def test_the_page_is_current() -> None:
    """By a process of its own: those that it spawns import the script by its name."""
    subprocess.run([sys.executable, SCRIPTS / "architectures.py", "--check"], check=True)
