"""The browser's runtime is fetched once, by npm, and what goes wrong is said in a line."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hfft.errors import HfftError
from hfft.inference.export.npm import npm_files

NAMES = ("dist/a.mjs", "dist/a.wasm")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A stand-in for npm that packs what the test says; every call is noted."""
    calls: list[list[str]] = []

    def run(command: list[str], **options: Any) -> None:
        calls.append(command)
        with tarfile.open(Path(command[-1]) / "pack.tgz", "w:gz") as archive:
            for name in (*NAMES, "dist/other.js"):
                entry = tarfile.TarInfo(f"package/{name}")
                entry.size = len(name)
                archive.addfile(entry, io.BytesIO(name.encode()))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/npm")
    return calls


def test_fetched_once(npm: list[list[str]]) -> None:
    for _ in range(2):
        files = npm_files("@some/package", "1.2.3", NAMES)
        assert [file.read_text() for file in files] == list(NAMES)
    assert [call[:3] for call in npm] == [["/bin/npm", "pack", "@some/package@1.2.3"]]
    assert files[0].is_relative_to(os.environ["HFFT_CACHE"])
    assert sorted(file.name for file in files[0].parent.iterdir()) == ["a.mjs", "a.wasm"]


def test_without_npm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(HfftError, match=r"onnxruntime-web@1\.0\.0 from npm, which is not installed; install Node\.js"):
        npm_files("onnxruntime-web", "1.0.0", NAMES)


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> None:
        raise subprocess.CalledProcessError(1, command, "", "npm error\n code ENOTFOUND")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/npm")
    with pytest.raises(HfftError, match=r"npm cannot fetch onnxruntime-web@1\.0\.0: npm error code ENOTFOUND; check"):
        npm_files("onnxruntime-web", "1.0.0", NAMES)


def test_a_package_without_the_file(npm: list[list[str]]) -> None:
    with pytest.raises(HfftError, match=r"cannot fetch x@1 by npm: .*dist/gone\.js"):
        npm_files("x", "1", ("dist/gone.js",))
