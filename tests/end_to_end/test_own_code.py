"""Models that bring their own code: it runs where the command says so, and goes where they go."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from finished import make_images
from own_code import ANATOMY, make_own_code, modules_in
from runs import run

from hfft.cli import main
from hfft.errors import OutputError
from hfft.hub.push import Target, collect
from hfft.plugin import installed

pytestmark = pytest.mark.usefixtures("own_modules")
TRUST = ("--trust_remote_code", "true")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images, of a base with code of its own; whoever loads either without trust runs none of it."""
    folder = tmp_path_factory.mktemp("own")
    base, images = make_own_code(folder / "base"), make_images(folder / "images")
    (folder / "anatomy.yaml").write_text(ANATOMY)
    make_images(folder / "more", ("violet",))
    with modules_in(folder / "modules"):
        flags = ("--model_name_or_path", base, "--anatomy", folder / "anatomy.yaml", "--train_dir", images, *TRUST)
        assert run(*flags, "--output_dir", folder / "run", "--num_train_epochs", 1, "--cache", "off") == 0
    return folder


def command(*words: Any) -> int:
    return main([str(word) for word in words])


def test_the_code_is_pushed_with_the_model(place: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(place / "run", tmp_path / "run")
    assert {"modeling.py", "helpers.py"} <= collect(copy, Target("me/own")).keys()
    (copy / "helpers.py").unlink()
    with pytest.raises(OutputError, match=r"lacks helpers\.py, without which its model cannot be loaded"):
        collect(copy, Target("me/own"))


def test_code_of_another_repository_stays_there(place: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(place / "run", tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {name: f"them/own--{value}" for name, value in config["auto_map"].items()}
    (copy / "config.json").write_text(json.dumps(config))
    assert not [name for name in collect(copy, Target("me/own")) if name.endswith(".py")]


def test_a_plugin_is_checked_on_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("own", "own_code:Own", installed.GROUP)
    monkeypatch.setattr(installed, "entry_points", lambda group: [point])
    assert command("plugins", "check", "own", "--model", place / "base") == 1
    assert "--trust_remote_code true" in capsys.readouterr().err
    assert command("plugins", "check", "own", "--model", place / "base", *TRUST) == 0
    assert "loaded by AutoModelForImageClassification" in capsys.readouterr().out


def test_it_is_exported(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    flags = ("export", place / "run", "--output_dir", tmp_path)
    assert command(*flags) == 1
    assert "--trust_remote_code true" in capsys.readouterr().err
    assert command(*flags, *TRUST) == 0


@pytest.mark.parametrize(
    "words",
    [
        ("extend", "{place}/run", "--train_dir", "{place}/more", "--output_dir", "{new}"),
        ("evaluate", "--model", "{place}/run", "--folds", 2, "--output_dir", "{new}"),
        ("finetune", "--from_record", "{place}/run", "--output_dir", "{new}", "--disable_tqdm", "true"),
    ],
    ids=lambda words: words[0],
)
def test_a_record_has_no_code_run(
    words: tuple[Any, ...], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(word).format(place=place, new=tmp_path / "new") for word in words]
    assert command(*given) == 1
    assert "brings code of its own" in capsys.readouterr().err
    assert command(*given, *TRUST) == 0


def test_labels_are_looked_at_by_its_features(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("labels", place / "run") == 1
    assert "brings code of its own" in capsys.readouterr().err
    assert command("labels", place / "run", *TRUST) == 0
