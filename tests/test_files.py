"""A tilde in a path is the user's home, wherever the path comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfft.arguments import CacheArguments, CacheToolArguments
from hfft.cache.prepare import cache_folder
from hfft.cli import main
from hfft.cli.cache import cache_tool
from hfft.errors import ArgumentError
from hfft.files import default_cache_dir
from hfft.models.download import fetch


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HFFT_CACHE", "~/cache")
    (tmp_path / "run").mkdir()
    assert default_cache_dir() == cache_folder(CacheArguments(cache_dir="~/cache")) == tmp_path / "cache"
    assert cache_tool("list", CacheToolArguments(cache_dir="~/cache")).result["cache_dir"] == tmp_path / "cache"
    assert fetch("~/run") == tmp_path / "run"


def test_a_sweep_in_the_home_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("hfft.jobs.sweep.finetune", lambda *_, **__: (_ for _ in ()).throw(ArgumentError("enough")))
    flags = ["--max_train_samples", "30", "--output_dir", "~/sweep", "--sweep", "seed=1"]
    assert main(["sweep", *flags]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
