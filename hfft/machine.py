"""What a process takes of its machine: memory kept for the next batch, all of the cores, few searches for garbage.

Python looks for garbage in cycles whenever 700 objects more are alive, and now and then among all of them. Libraries
make a million that never go: 2 to 3 s of a start were spent on that, and half a second before each training, which
begins with such a search in accelerate.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from hfft.errors import ArgumentError

MEMORY_SWITCH = "HFFT_KEEP_FREED_MEMORY"
"""Environment variable: where it is 0, `keep_freed_memory` does nothing."""
CORES_SWITCH = "HFFT_ALL_CORES"
"""Environment variable: where it is 0, `take_all_cores` does nothing."""

_OWN_CGROUPS, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_MEMORY_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("memory.max", "memory.current", ""),
}
"""By version: files of a cgroup's limit and of what it takes, and how counts with its children begin in memory.stat.
Source: admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst of Linux."""
_MOST_WORKERS = 16
_SPINS = "30000"  # 300,000 without
_FORKED_SECONDS, _IMPORT_SECONDS = 0.5, 8.0  # that worker processes take to start
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_LARGEST_BLOCK = 32 * 2**20  # bytes; glibc takes no more
_set_aside = False  # by this process's own jobs, for which the whole heap need not be counted
_WHILE_LOADING, _USUAL = 50_000, gc.get_threshold()[0]  # objects more, at which garbage is looked for


def refuse_lone_process() -> None:
    """Make sure that a launcher which was asked for several processes has started them.

    Raises:
        ArgumentError: it has started a single one.
    """
    # accelerate names a meeting place for several processes, and then starts a single one.
    alone = "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    if alone and os.environ.get("ACCELERATE_USE_CPU") == "True":
        raise ArgumentError(
            "`accelerate launch --cpu` starts one process, however many --num_processes asks for; start N with "
            "torchrun --nproc_per_node N scripts/finetune.py"
        )


def refuse_launcher(job: str) -> None:
    """Make sure that a job whose work processes do not share is not done, and written, once by each of several.

    Raises:
        ArgumentError: a launcher has started several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ArgumentError(
            f"{job} takes no launcher: start it as one process (WORLD_SIZE is {os.environ['WORLD_SIZE']} here)"
        )


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed blocks of up to 32 MiB instead of handing each back to the system.

    Activations of a batch are blocks of a few megabytes. Handed back and asked for again in each layer, they cost
    a page fault every 4 KiB: half of the time of a small network on a CPU. The process keeps its peak of memory.

    Returns:
        Whether the thresholds are set: not where `MEMORY_SWITCH` is 0, where the user has set glibc's own variables,
        and with other C libraries (musl, macOS, Windows).
    """
    own = "MALLOC_MMAP_THRESHOLD_" in os.environ or "MALLOC_TRIM_THRESHOLD_" in os.environ
    if own or os.environ.get(MEMORY_SWITCH) == "0" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def free_memory() -> int:
    """Return the bytes of memory that this process may still take."""
    return min([psutil.virtual_memory().available, *_free_in_cgroups()])


def _free_in_cgroups() -> Iterator[int]:
    """Yield the bytes of memory left to each cgroup that limits this process: a container's, a batch job's.

    The machine may have far more; a process that takes it is killed. Files that the system holds in memory give way.
    """
    try:
        groups = [line.split(":", 2) for line in _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in groups:
        version = 2 if not controllers else 1 if "memory" in controllers.split(",") else 0
        if not version:
            continue
        root = _CGROUPS if version == 2 else _CGROUPS / "memory"
        most, used, prefix = _MEMORY_FILES[version]
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            with suppress(OSError, ValueError):  # there is none, or its limit is "max"
                limit, taken = (int((group / name).read_text(encoding="utf-8")) for name in (most, used))
                lines = (line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
                files = {f"{prefix}{state}_file" for state in ("active", "inactive")}
                yield max(0, limit - taken + sum(int(count) for name, count in lines if name in files))


class Items(Protocol):
    """What a data loader reads from."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, row: int, /) -> Any:
        """Read one of them."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_processes(dataset: Items, workers: int | None = None) -> int:
    """Return how many worker processes should read a dataset: none where they save less than they take to start.

    45 phone photos are worth them where they are forked. Elsewhere, as on macOS, on Windows and from Python 3.14 on,
    each imports PyTorch and transformers anew, 8 s on a core of its own, and waits until the one before has read what
    it is given.

    Args:
        dataset: two of its items are read here.
        workers: how many there may be; None for one on each core, up to 16.
    """
    workers = min(cores(), _MOST_WORKERS) if workers is None else workers
    if len(dataset) < 2 * workers or workers < 1:
        return 0
    import multiprocessing  # which most commands do without

    times = []
    for row in range(2):  # the first image of a process may wait for a decoder to be loaded
        start = time.perf_counter()
        dataset[row]
        times.append(time.perf_counter() - start)
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    starting = _FORKED_SECONDS if method == "fork" else _IMPORT_SECONDS * workers
    return workers if min(times) * len(dataset) * (1 - 1 / workers) > starting else 0


def take_all_cores() -> str:
    """Undo the single thread that ``accelerate launch`` gives a lone process where no count was asked for.

    The launcher sets ``OMP_NUM_THREADS`` to 1 unless it is told ``--cpu``, and PyTorch then computes on one core of a
    machine without a GPU. Forgotten before PyTorch is loaded, each library takes what it thinks best. Processes that
    share a machine (torchrun, several ranks) keep what their launcher gave them.

    Returns:
        A line that says so, or nothing where nothing was changed.
    """
    launched = "ACCELERATE_USE_CPU" in os.environ and "WORLD_SIZE" not in os.environ
    one = os.environ.get("OMP_NUM_THREADS") == "1" and cores() > 1
    if not launched or not one or "torch" in sys.modules or os.environ.get(CORES_SWITCH) == "0":
        return ""
    del os.environ["OMP_NUM_THREADS"]
    return f"accelerate launch sets one thread; this process takes all cores instead ({CORES_SWITCH}=0 keeps one)."


def wait_briefly() -> None:
    """Have the threads of an operation sleep after a short wait for each other, unless the user has decided otherwise.

    GNU's OpenMP spins for up to a millisecond. Beside a busy program of another session, which gets as much time as all
    threads of this one, the thread that is waited for has no core meanwhile: trainings of small layers then take ten
    times as long. The variable is read when PyTorch is loaded.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS


@contextmanager
def few_collections() -> Iterator[None]:
    """Within this context, which loads libraries and models, garbage is rarely looked for."""
    given = gc.get_threshold()
    gc.set_threshold(_WHILE_LOADING, *given[1:])
    try:
        yield
    finally:
        gc.set_threshold(*given)


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Within this context, or a function that it decorates, garbage is not looked for among what was there before.

    Where somebody did the same around it, nothing is done, and nothing undone.
    """
    global _set_aside
    if _set_aside or gc.get_freeze_count():
        yield
        return
    given, _set_aside = gc.get_threshold(), True
    gc.freeze()
    gc.set_threshold(min(given[0], _USUAL), *given[1:])
    try:
        yield
    finally:
        gc.set_threshold(*given)
        gc.unfreeze()
        _set_aside = False
