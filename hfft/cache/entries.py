"""The stores of a cache folder, and exported engines (without rows) among them: listed, and pruned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hfft.cache.shards import ENDING, DamagedError, delete_own, read_names


@dataclass(frozen=True)
class Entry:
    """One store in a cache folder, as `hfft cache list` shows it."""

    folder: Path
    boundary: str
    rows: int
    bytes: int
    used: float  # seconds since the epoch


def list_entries(directory: Path) -> list[Entry]:
    """Return the stores of a cache folder, the most recently used first."""
    return sorted(_entries(directory), key=lambda entry: -entry.used)


def prune(directory: Path, keep_bytes: int = 0) -> list[Entry]:
    """Delete the oldest stores until at most `keep_bytes` are left; return what was deleted.

    Files of other users stay, and so does a store that holds any.
    """
    entries, deleted = list_entries(directory), []
    left = sum(entry.bytes for entry in entries)
    for entry in reversed(entries):
        if left > keep_bytes and _delete(entry.folder):
            left -= entry.bytes
            deleted.append(entry)
    return deleted


def _delete(folder: Path) -> bool:
    """Delete this user's files of a store; return whether nothing is left."""
    description = folder / "entry.json"
    files = [path for path in folder.rglob("*") if not path.is_dir() and path != description]
    others = [file for file in files if not delete_own(file)]
    if others or not delete_own(description):
        return False
    with suppress(OSError):  # another process wrote a file just now
        for place in (*sorted(folder.rglob("*"), reverse=True), folder):
            place.rmdir()
    return not folder.exists()


def _entries(directory: Path) -> Iterator[Entry]:
    for description in (*directory.glob("*/entry.json"), *directory.glob("engines/*/entry.json")):
        try:
            data = json.loads(description.read_text())
            status = [path.stat() for path in description.parent.rglob("*") if path.is_file()]
            used = max(each.st_mtime for each in status)
        except (OSError, ValueError):  # another user's who keeps it to himself, or pruned just now
            continue
        yield Entry(
            folder=description.parent,
            boundary=data["boundary"],
            rows=len(_names(description.parent)),
            bytes=sum(each.st_size for each in status),
            used=used,
        )


def _names(folder: Path) -> set[str]:
    names: set[str] = set()
    for file in folder.glob(f"*{ENDING}"):
        with suppress(OSError, DamagedError):
            names |= set(read_names(file))
    return names
