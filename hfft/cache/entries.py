"""The stores of a cache folder, and exported engines (without rows) among them: listed, and pruned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
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
    """Delete the oldest stores until at most `keep_bytes` are left; return them with the bytes that were deleted.

    Files of other users stay, and so does a store that holds any, without this user's.
    """
    entries, deleted = list_entries(directory), []
    left = sum(entry.bytes for entry in entries)
    for entry in reversed(entries):
        freed = _delete(entry.folder) if left > keep_bytes else 0
        left -= freed
        if freed:
            deleted.append(replace(entry, bytes=freed))
    return deleted


def _delete(folder: Path) -> int:
    """Delete this user's files of a store, and the store where nothing is left; return how many bytes that freed."""
    description = folder / "entry.json"
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if not path.is_dir()}
    freed = {path for path in sizes if path != description and delete_own(path)}
    if sizes.keys() - freed <= {description} and delete_own(description):
        freed |= {description}
        with suppress(OSError):  # another process wrote a file just now
            for place in (*sorted(folder.rglob("*"), reverse=True), folder):
                place.rmdir()
    return sum(sizes.get(path, 0) for path in freed)


def _entries(directory: Path) -> Iterator[Entry]:
    for description in (*directory.glob("*/entry.json"), *directory.glob("engines/*/entry.json")):
        try:
            data = json.loads(description.read_text(encoding="utf-8"))
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
