"""glibc's thresholds and the launcher's single thread: what changes them, and what leaves them alone."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from hfft import machine
from hfft.cli import main
from hfft.machine import few_collections, heap_set_aside, worker_processes

# Blocks of 8 MB, two at once and freed in turns, as the activations of two layers are.
CODE = """
import resource
from hfft.machine import keep_freed_memory
print(keep_freed_memory())
def layers():
    for _ in range(50):
        first, second = bytearray(8_000_000), bytearray(9_000_000)
layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**variables: str) -> tuple[str, int]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", CODE]
    out = subprocess.run(command, env=given | variables, check=True, capture_output=True, text=True).stdout.split()
    return out[0], int(out[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these thresholds")
def test_freed_memory_is_used_again() -> None:
    off, on = faults(**{machine.MEMORY_SWITCH: "0"}), faults()
    assert (off[0], on[0]) == ("False", "True")
    assert on[1] < off[1] / 10


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_the_users_own_thresholds_win(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "100000")
    assert not machine.keep_freed_memory()


def test_other_systems_and_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # musl has no mallopt
    assert not machine.keep_freed_memory()
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("ctypes.CDLL", None)
    assert not machine.keep_freed_memory()


THREADS = ("OMP_NUM_THREADS", "WORLD_SIZE", "HFFT_ALL_CORES")


def threads(before: str = "", **variables: str) -> int:
    """Return how many threads PyTorch has in a process that is started with these environment variables."""
    given = {name: value for name, value in os.environ.items() if name not in THREADS}
    code = f"{before}; from hfft.machine import take_all_cores; take_all_cores(); import torch; "
    command = [sys.executable, "-c", code.lstrip("; ") + "print(torch.get_num_threads())"]
    return int(subprocess.run(command, env=given | variables, check=True, capture_output=True, text=True).stdout)


@pytest.mark.processes
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_a_lone_process_of_the_launcher_takes_all_cores() -> None:
    launched = {"ACCELERATE_USE_CPU": "False", "OMP_NUM_THREADS": "1"}
    assert threads(**launched) == threads() > 1
    assert threads(**launched, WORLD_SIZE="2") == 1
    assert threads(**launched, HFFT_ALL_CORES="0") == 1
    assert threads(OMP_NUM_THREADS="1") == 1, "without a launcher it is the user's own"
    assert threads("import torch", **launched) == 1, "it is too late"


def test_garbage_is_looked_for_among_new_objects_alone_and_afterwards_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_set_aside", False)  # as if the tests had not done so
    thresholds = gc.get_threshold()
    gc.unfreeze()
    try:
        with few_collections():
            assert gc.get_threshold()[0] > thresholds[0]
            with heap_set_aside():
                assert (gc.get_freeze_count() > 0, gc.get_threshold()) == (True, thresholds)
                with heap_set_aside():
                    pass
                assert gc.get_freeze_count() > 0  # the outer one's
        assert (gc.get_freeze_count(), gc.get_threshold()) == (0, thresholds)
        gc.freeze()  # somebody else's
        with heap_set_aside():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.freeze()


def test_threads_wait_briefly_unless_the_user_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert main(["plugins"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert main(["plugins"]) == 0
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["plugins"]) == 0
    assert int(os.environ["GOMP_SPINCOUNT"]) < 300_000


def test_a_command_leaves_the_collector_as_it_was() -> None:
    given = gc.get_threshold()
    for command, code in ((["plugins"], 0), (["plan", "--model_name_or_path", "/nowhere"], 1)):
        assert main(command) == code
        assert gc.get_threshold() == given


@pytest.mark.parametrize(("method", "expected"), [("fork", [0, 2, 2]), ("spawn", [0, 0, 2])])
def test_worker_processes_start_where_they_save_more_than_they_take(
    method: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of 10 ms each: 40, 1,000 and 5,000 of them on two cores."""

    class Rows:
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, row: int) -> None:
            clock[0] += 0.01

    clock = [0.0]
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: method)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    rows: Any = Rows
    assert [worker_processes(rows(count), 2) for count in (40, 1000, 5000)] == expected
