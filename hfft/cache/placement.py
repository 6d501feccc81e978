"""Where cached activations go: the GPU, memory, disk, or two of them, by what is free."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfft.errors import ArgumentError, OutputError
from hfft.machine import free_memory

if TYPE_CHECKING:
    import torch  # which commands that list and prune do without

SHARE_OF_FREE = 0.5
"""Share of the free memory, of the CPU or a GPU, or disk that a cache may take unless --cache_max_gb says otherwise."""
SHARE_OF_GPU = 0.25
"""Share of a GPU's free memory that a cache may take unasked, since training needs the rest."""


@dataclass(frozen=True)
class Placement:
    """Where an entry lives: on disk (`directory`), in memory, or both.

    Args:
        directory: the cache folder, or None.
        in_memory: whether all rows are held; else they are read from disk as they are wanted.
        device: the GPU whose memory holds them; None for the CPU's.
    """

    directory: Path | None
    in_memory: bool
    device: torch.device | None = None

    @property
    def name(self) -> str:
        """Where rows are read from: gpu, memory or disk, as ``--cache`` names it."""
        return "disk" if not self.in_memory else "memory" if self.device is None else "gpu"

    def describe(self) -> str:
        """Say where that is."""
        held = "in memory" if self.device is None else "on the GPU"
        places = [held] if self.in_memory else []
        return " and ".join([*places, "on disk"] if self.directory is not None else places)


def choose_placement(
    mode: str, size: tuple[int, int], directory: Path, max_bytes: int | None, processes: int, device: torch.device
) -> Placement | str:
    """Decide where activations go.

    Args:
        mode: auto, gpu, memory or disk.
        size: bytes of all entries of this run, and bytes of them that are not on disk yet.
        directory: the cache folder.
        max_bytes: the user's limit, or None for half of what is free.
        processes: with more than one, each reads the disk, which the system keeps in memory where it fits, or holds
            all rows on a GPU of its own and finds on disk what the others computed.
        device: whose memory the readers of rows reach.

    Returns:
        A placement, or for ``auto`` the reason why there is no room anywhere.

    Raises:
        OutputError: the place that was asked for has no room.
    """
    total, to_write = size
    memory = free_memory()
    disk = _free_disk(directory)
    fits_memory = total <= _limit(memory, max_bytes)
    fits_disk = to_write <= _limit(disk, max_bytes)
    if mode == "gpu":
        _refuse_unless_it_fits(total, max_bytes, device)
    if mode == "memory":
        if processes > 1:
            raise OutputError("--cache memory serves one process; with several, use --cache disk or auto")
        if not fits_memory:
            raise OutputError(_no_room(total, "memory", memory, max_bytes))
        return Placement(None, in_memory=True)
    if not fits_disk and (mode == "disk" or (mode == "gpu" and processes > 1)):
        raise OutputError(_no_room(to_write, f"disk at {directory}", disk, max_bytes))
    if mode == "disk":
        return Placement(directory, in_memory=False)
    alone = processes == 1
    on_gpu = mode == "gpu" or ((fits_disk or alone) and _holds_unasked(total, max_bytes, device))
    in_memory = on_gpu or (fits_memory and alone)
    if not fits_disk and not in_memory:
        return _no_room(total, f"memory and disk at {directory}", max(memory, disk), max_bytes)
    return Placement(directory if fits_disk else None, in_memory, device if on_gpu else None)


def _refuse_unless_it_fits(total: int, max_bytes: int | None, device: torch.device) -> None:
    if device.type == "cpu":
        raise ArgumentError("--cache gpu needs a GPU; use --cache memory, or leave it out")
    free = _free_on(device)
    if total > _limit(free, max_bytes):
        raise OutputError(_no_room(total, "the GPU's memory", free, max_bytes))


def _holds_unasked(total: int, max_bytes: int | None, device: torch.device) -> bool:
    """Whether rows go to the GPU unasked: a step on them takes a third to two thirds of the time there."""
    if device.type != "cuda":
        return False
    return total <= min(SHARE_OF_GPU * _free_on(device), math.inf if max_bytes is None else max_bytes)


def _free_on(device: torch.device) -> int:
    import torch

    if device.type == "mps":  # Apple's GPUs have the machine's memory
        return free_memory()
    free: int = torch.get_device_module(device).mem_get_info(device)[0]
    return free


def gigabytes(count: float) -> str:
    """Format a number of bytes for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _limit(free: int, max_bytes: int | None) -> float:
    return SHARE_OF_FREE * free if max_bytes is None else min(free, max_bytes)


def _free_disk(directory: Path) -> int:
    # Path.exists raises an error for what lies in a folder that may not be entered.
    existing = next(folder for folder in (directory, *directory.absolute().parents) if os.path.exists(folder))
    return shutil.disk_usage(existing).free


def _no_room(needed: int, where: str, free: int, max_bytes: int | None) -> str:
    limit = "half of what is free" if max_bytes is None else f"--cache_max_gb {max_bytes / 1e9:g}"
    return (
        f"the activation cache needs {gigabytes(needed)}, but {where} allows {gigabytes(_limit(free, max_bytes))} "
        f"({gigabytes(free)} free, limit: {limit})"
    )
