"""A tilde in a path is the user's home, and what cannot be written is said with what helps."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from hfft.arguments import CacheArguments, CacheToolArguments
from hfft.cache.prepare import cache_folder
from hfft.cli import main
from hfft.cli.cache import cache_tool
from hfft.errors import ArgumentError
from hfft.files import cannot_write, default_cache_dir
from hfft.models.download import fetch
from hfft.training.setup import Settings


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
    folders = list[str | None]()

    def ended(settings: Settings, *_: Any, **__: Any) -> None:
        folders.append(settings.training.output_dir)
        raise ArgumentError("enough")

    monkeypatch.setattr("hfft.jobs.sweep.finetune", ended)
    flags = ["--max_train_samples", "30", "--output_dir", "~/sweep", "--sweep", "seed=1"]
    assert main(["sweep", *flags]) == 1
    assert folders == [str(tmp_path / "home" / "sweep" / "seed=1")]
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some room, or choose another place"),
        (errno.EDQUOT, "free some room, or choose another place"),
        (errno.EACCES, "change its permissions, or choose another place"),
        (errno.EROFS, "change its permissions, or choose another place"),
        (errno.EIO, "choose another place"),
    ],
    ids=errno.errorcode.get,
)
def test_the_advice_fits_why_a_file_cannot_be_written(number: int, advice: str) -> None:
    reason = os.strerror(number)
    told = f"cannot write out/x.csv: {reason}; {advice}"
    assert str(cannot_write("out/x.csv", OSError(number, reason, "out/x.csv"))) == told
    rust = SafetensorError(f"Error while serializing: I/O error: {reason} (os error {number})")
    assert str(cannot_write("out/x.csv", rust)) == told


def test_an_error_without_a_number_is_told_in_its_own_words() -> None:
    assert str(cannot_write("x", OSError("closed"))) == "cannot write x: closed; choose another place"
