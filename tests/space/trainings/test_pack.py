"""A model to take along, as a zip."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from finished import make_images, make_model, run_finetune

from hfft.space.trainings import pack as packing


def test_two_who_ask_at_once_get_the_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick: dict[str, Any] = {"baselines": "none", "figures": False}
    run = run_finetune(make_model(tmp_path / "base"), make_images(tmp_path / "images"), tmp_path / "run", **quick)
    published = packing._published
    found: list[Any] = []

    def meanwhile(*given: Any) -> bytes:
        if not found:
            found.append(None)
            found[0] = packing.pack(run.folder)
        return published(*given)

    monkeypatch.setattr(packing, "_published", meanwhile)
    path = packing.pack(run.folder)
    assert path == found[0]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert "hfft-model/config.json" in archive.namelist()
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []
