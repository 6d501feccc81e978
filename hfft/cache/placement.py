"""Where cached activations go: memory, disk or both, by what is free."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from hfft.errors import OutputError

SHARE_OF_FREE = 0.5
"""Share of the free memory or disk that a cache may take unless --cache_max_gb says otherwise."""


@dataclass(frozen=True)
class Placement:
    """Where an entry lives: on disk (`directory`), in memory, or both."""

    directory: Path | None
    in_memory: bool


def choose_placement(
    mode: str, size: tuple[int, int], directory: Path, max_bytes: int | None, processes: int
) -> Placement | str:
    """Decide where activations go.

    Args:
        mode: auto, memory or disk.
        size: bytes of all entries of this run, and bytes of them that are not on disk yet.
        directory: the cache folder.
        max_bytes: the user's limit, or None for half of what is free.
        processes: with more than one, each reads the disk, which the system keeps in memory where it fits.

    Returns:
        A placement, or for ``auto`` the reason why there is no room anywhere.

    Raises:
        OutputError: the place that was asked for has no room.
    """
    total, to_write = size
    memory = psutil.virtual_memory().available
    disk = _free_disk(directory)
    fits_memory = total <= _limit(memory, max_bytes)
    fits_disk = to_write <= _limit(disk, max_bytes)
    if mode == "memory":
        if processes > 1:
            raise OutputError("--cache memory serves one process; with several, use --cache disk or auto")
        if not fits_memory:
            raise OutputError(_no_room(total, "memory", memory, max_bytes))
        return Placement(None, in_memory=True)
    if mode == "disk":
        if not fits_disk:
            raise OutputError(_no_room(to_write, f"disk at {directory}", disk, max_bytes))
        return Placement(directory, in_memory=False)
    in_memory = fits_memory and processes == 1
    if not fits_disk and not in_memory:
        return _no_room(total, f"memory and disk at {directory}", max(memory, disk), max_bytes)
    return Placement(directory if fits_disk else None, in_memory)


def gigabytes(count: float) -> str:
    """Format a number of bytes for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _limit(free: int, max_bytes: int | None) -> float:
    return SHARE_OF_FREE * free if max_bytes is None else min(free, max_bytes)


def _free_disk(directory: Path) -> int:
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _no_room(needed: int, where: str, free: int, max_bytes: int | None) -> str:
    limit = "half of what is free" if max_bytes is None else f"--cache_max_gb {max_bytes / 1e9:g}"
    return (
        f"the activation cache needs {gigabytes(needed)}, but {where} allows {gigabytes(_limit(free, max_bytes))} "
        f"({gigabytes(free)} free, limit: {limit})"
    )
