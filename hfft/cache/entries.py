"""The entries of a cache folder, exported engines (without rows) among them: listed, and pruned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One entry in a cache folder, as `hfft cache list` shows it."""

    folder: Path
    boundary: str
    rows: int
    bytes: int
    used: float  # seconds since the epoch


def list_entries(directory: Path) -> list[Entry]:
    """Return the entries of a cache folder, the most recently written first."""
    return sorted(_entries(directory), key=lambda entry: -entry.used)


def prune(directory: Path, keep_bytes: int = 0) -> list[Entry]:
    """Delete the oldest entries until at most `keep_bytes` are left; return what was deleted."""
    kept, deleted = 0, []
    for entry in list_entries(directory):
        kept += entry.bytes
        if kept > keep_bytes:
            shutil.rmtree(entry.folder)
            kept -= entry.bytes
            deleted.append(entry)
    return deleted


def _entries(directory: Path) -> Iterator[Entry]:
    for description in (*directory.glob("*/entry.json"), *directory.glob("engines/*/entry.json")):
        data = json.loads(description.read_text())
        files = [file for file in description.parent.rglob("*") if file.is_file()]
        yield Entry(
            folder=description.parent,
            boundary=data["boundary"],
            rows=data["rows"],
            bytes=sum(file.stat().st_size for file in files),
            used=max(file.stat().st_mtime for file in files),
        )
