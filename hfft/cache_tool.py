"""`hfft cache`: what lies on disk, and removing it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hfft.arguments import CacheToolArguments
from hfft.placement import default_cache_dir, gigabytes


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


def cache_tool(action: str, options: CacheToolArguments) -> str:
    """List or prune the entries of a cache folder and say what there is, or what was removed."""
    directory = Path(options.cache_dir) if options.cache_dir else default_cache_dir()
    if action == "prune":
        entries = prune(directory, int(options.keep_gb * 1e9))
        return f"Removed {len(entries)} entries of {gigabytes(sum(entry.bytes for entry in entries))} from {directory}."
    entries = list_entries(directory)
    total = f"{len(entries)} entries of {gigabytes(sum(entry.bytes for entry in entries))} in {directory}"
    return "\n".join([*(_line(entry) for entry in entries), total])


def _line(entry: Entry) -> str:
    used = datetime.fromtimestamp(entry.used).isoformat(sep=" ", timespec="minutes")
    return (
        f"{entry.folder.name}  {gigabytes(entry.bytes):>10}  {entry.rows:>8} rows  used {used}  before {entry.boundary}"
    )


def _entries(directory: Path) -> Iterator[Entry]:
    for description in directory.glob("*/entry.json"):
        data = json.loads(description.read_text())
        files = list(description.parent.iterdir())
        yield Entry(
            folder=description.parent,
            boundary=data["boundary"],
            rows=data["rows"],
            bytes=sum(file.stat().st_size for file in files),
            used=max(file.stat().st_mtime for file in files),
        )
