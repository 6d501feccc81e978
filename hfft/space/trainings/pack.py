"""A visitor's model as a zip that tells nothing of the server that trained it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

from hfft.files import whole_file
from hfft.hub.local_paths import LocalPaths
from hfft.models.download import DELTA
from hfft.output_folder import RECORD
from hfft.report.record import RunRecord, read_record

NAME = "hfft-model"
"""The folder in the zip, and what the card's examples load."""

_TEXTS = (".md", ".json", ".yaml", ".csv", ".txt")


def pack(run: Path) -> Path:
    """Return a run's folder as a zip, made where it is not there yet.

    The zip lies beside the run, is named after what was trained, and holds one folder. Local paths are taken out of
    every text, as for a push.
    """
    record = read_record(run / RECORD)
    path = run.with_name(f"{_name(record)}.zip")
    if path.exists():
        return path
    paths = LocalPaths(asdict(record))
    trained_in = json.dumps(str(record.arguments.get("output_dir") or run))
    # Two events of the page may ask at once.
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in run.rglob("*") if file.is_file()):
            place = f"{NAME}/{file.relative_to(run).as_posix()}"
            archive.writestr(place, _published(file, paths, trained_in)) if _may_name_paths(file) else archive.write(
                file, place
            )
    return path


def _may_name_paths(file: Path) -> bool:
    return file.suffix in _TEXTS or file.name == DELTA


def _published(file: Path, paths: LocalPaths, trained_in: str) -> bytes:
    if file.name == DELTA:
        return paths.delta(file)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return paths.json(text).encode()
    return paths.without(text.replace(trained_in, json.dumps(NAME))).encode()


def _name(record: RunRecord) -> str:
    epochs = sum(phase.epochs for phase in record.plan)
    text = f"{NAME}-{record.policy}-{epochs:g}-epochs"
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in text)
