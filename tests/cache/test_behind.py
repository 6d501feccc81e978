"""Writing behind a run: it holds the rows at once, and the disk gets them while that pays."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from runs import Folder, record

from hfft.cache import behind
from hfft.cache.behind import WriteBehind
from hfft.cache.placement import Placement
from hfft.cache.rows import make_rows
from hfft.cache.store import ActivationCache, CacheKey
from hfft.errors import OutputError
from hfft.split.split import Leaf

KEY = CacheKey("weights", "model", "boundary", "pixels", "auto", "None", "contiguous", "software")
ROWS = 4


def make_cache(folder: Path, behind: WriteBehind | None = None) -> ActivationCache:
    rows = make_rows([Leaf("x", (5,), torch.float32)], "auto", channels_last=False)
    cache = ActivationCache(key=KEY, rows=rows, names=list("abcd"), placement=Placement(folder, in_memory=True))
    cache.behind = behind
    return cache


def put(cache: ActivationCache, row: int) -> None:
    cache.put([row], {"x": torch.full((1, 5), float(row))})


def test_rows_are_held_at_once_and_written_in_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    gate = threading.Event()
    with WriteBehind(said.append) as writer:
        writer(gate.wait, 0.0, 0)
        cache = make_cache(tmp_path, writer)
        for row in range(ROWS):
            put(cache, row)
        assert cache.gather([3, 1])["x"][:, 0].tolist() == [3.0, 1.0]
        assert make_cache(tmp_path).find(range(ROWS)) == list(range(ROWS))
        gate.set()
    assert make_cache(tmp_path).find(range(ROWS)) == []
    assert said == []


SPAWNED = """
import multiprocessing, sys
import hfft
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    model, images, output = sys.argv[1:]
    hfft.finetune(
        model_name_or_path=model, train_dir=images, train_val_split=0.25, output_dir=output, cache="memory",
        num_train_epochs=1, dataloader_num_workers=1, figures=False, disable_tqdm=True, say=lambda line: None,
    )
"""


def test_rows_held_in_memory_are_sent_to_other_processes_without_the_writing(tmp_path: Path) -> None:
    with WriteBehind(lambda line: None) as writer:
        cache = make_cache(tmp_path, writer)
        for row in range(ROWS):
            put(cache, row)
        sent = pickle.loads(pickle.dumps(cache))  # noqa: S301  (its own)
    assert sent.behind is None
    assert sent.gather([3, 1])["x"][:, 0].tolist() == [3.0, 1.0]


@pytest.mark.slow
def test_rows_held_in_memory_go_to_workers_that_are_spawned(
    image_folder: Folder, pretrained: Folder, tmp_path: Path
) -> None:
    """Spawned workers, which macOS and Windows start, are sent the store as a pickle; the writing stays here."""
    program = tmp_path / "program.py"
    program.write_text(SPAWNED)
    command = [sys.executable, program, pretrained("resnet"), image_folder(), tmp_path / "run"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in record(tmp_path / "run")["metrics"]["validation"]["values"]


def test_a_disk_slower_than_the_model_is_given_up_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "_PATIENCE", 0.0)
    said, written = list[str](), list[int]()
    with WriteBehind(said.append) as writer:
        writer(lambda: threading.Event().wait(0.01), 0.0, 10)
        writer(lambda: threading.Event().wait(0.5), 0.0, 10)  # is under way when the run ends
        for number in range(3):
            writer(partial(written.append, number), 0.0, 1_000_000)
    assert said == [
        "Not kept on disk for the next run: 3.0 MB of activations; "
        "writing it would take longer than computing it again does."
    ]
    assert written == []


def test_a_disk_as_quick_as_the_model_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "_PATIENCE", 0.0)
    said, written = list[str](), list[int]()
    with WriteBehind(said.append) as writer:
        for number in range(5):
            writer(partial(written.append, number), 60.0, 1)
    assert (written, said) == (list(range(5)), [])


def test_a_full_disk_is_said_and_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []

    def full() -> None:
        raise OutputError("cannot write the activation cache at /there: No space left on device; whole shards are kept")

    with WriteBehind(said.append) as writer:
        writer(full, 0.0, 2_000_000)
        writer(full, 0.0, 1_000_000)
    assert said == [
        "Not kept on disk for the next run: 3.0 MB of activations; "
        "cannot write the activation cache at /there: No space left on device."
    ]


def test_after_an_error_nothing_more_is_begun() -> None:
    gate, written = threading.Event(), list[int]()
    with pytest.raises(KeyboardInterrupt), WriteBehind(print) as writer:  # noqa: PT012
        writer(gate.wait, 0.0, 1)
        writer(lambda: written.append(1), 0.0, 1)
        threading.Timer(0.1, gate.set).start()
        raise KeyboardInterrupt
    assert written == []
