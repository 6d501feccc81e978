"""A file is its content: the memo spares reading, and never says anything else than reading would."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import hfft.data.content
from hfft.data.content import file_digests
from hfft.errors import DataError

Reads = list[str]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Ten files of equal size and time of change."""
    found = []
    for number in range(10):
        path = tmp_path / f"{number}.bmp"
        path.write_bytes(bytes([number]) * 100)
        os.utime(path, (0, 0))
        found.append(str(path))
    return found


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files have been there for a while."""
    now = time.time_ns
    monkeypatch.setattr("hfft.data.content.time.time_ns", lambda: now() + 10 * 10**9)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The files that are read."""
    seen: Reads = []
    hash_file = hfft.data.content._hash

    def noted(path: str) -> str:
        seen.append(path)
        return hash_file(path)

    monkeypatch.setattr(hfft.data.content, "_hash", noted)
    return seen


def truth(files: list[str]) -> list[str]:
    return [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]


@pytest.mark.usefixtures("later")
def test_unchanged_files_are_read_once(files: list[str], tmp_path: Path, reads: Reads) -> None:
    memo = tmp_path / "cache" / "memo"
    assert file_digests(files, memo) == truth(files)
    assert sorted(reads) == files
    assert file_digests(files[::-1], memo) == truth(files[::-1])
    assert sorted(reads) == files


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("how", ["in place", "replaced", "renamed over"])
def test_other_bytes_of_equal_size_and_time_are_seen(files: list[str], tmp_path: Path, how: str) -> None:
    memo = tmp_path / "memo"
    before = file_digests(files, memo)
    path = Path(files[3])
    if how == "renamed over":
        Path(files[4]).replace(path)
        files = [file for file in files if file != files[4]]
        before = [digest for row, digest in enumerate(before) if row != 4]
    else:
        if how == "replaced":
            path.unlink()
        path.write_bytes(b"x" * 100)
    os.utime(path, (0, 0))
    after = file_digests(files, memo)
    assert after == truth(files)
    assert [row for row, digest in enumerate(after) if digest != before[row]] == [3]


def test_a_file_that_has_just_changed_is_not_remembered(files: list[str], tmp_path: Path, reads: Reads) -> None:
    file_digests(files, tmp_path / "memo")
    file_digests(files, tmp_path / "memo")
    assert len(reads) == 2 * len(files)


@pytest.mark.usefixtures("later")
def test_times_in_whole_seconds_tell_nothing(
    files: list[str], tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a mounted archive, whose times are whatever its maker chose."""
    stat = os.stat

    def archived(path: str) -> object:
        found = stat(path)
        names = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
        return type("Status", (), {"st_ctime_ns": 0, **{name: getattr(found, name) for name in names}})

    with monkeypatch.context() as patch:
        patch.setattr(
            "hfft.data.content.os.stat", lambda path, **kw: archived(path) if path in files else stat(path, **kw)
        )
        file_digests(files, tmp_path / "memo")
        file_digests(files, tmp_path / "memo")
    assert len(reads) == 2 * len(files)


def truncate(memo: Path) -> None:
    memo.write_bytes(memo.read_bytes()[:5000])


def no_database(memo: Path) -> None:
    memo.write_bytes(b"something else" * 1000)


def other_digests(memo: Path) -> None:
    with sqlite3.connect(memo) as database:
        database.execute("UPDATE contents SET digest = ?", ("0" * 64,))


def other_table(memo: Path) -> None:
    memo.unlink()
    with sqlite3.connect(memo) as database:
        database.execute("CREATE TABLE contents (key, other)")


def folder(memo: Path) -> None:
    memo.unlink()
    memo.mkdir()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", [truncate, no_database, other_digests])
def test_a_damaged_memo_is_made_anew(
    files: list[str], tmp_path: Path, reads: Reads, damage: Callable[[Path], None]
) -> None:
    memo = tmp_path / "memo"
    file_digests(files, memo)
    damage(memo)
    for _ in range(3):
        assert file_digests(files, memo) == truth(files)
    # Read again at most twice: when the damage is found at reading, or only at writing.
    count = len(reads)
    assert count <= 3 * len(files)
    assert file_digests(files, memo) == truth(files)
    assert len(reads) == count


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", [other_table, folder])
def test_a_memo_that_is_of_no_use_is_done_without(
    files: list[str], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    memo = tmp_path / "memo"
    file_digests(files, memo)
    damage(memo)
    assert file_digests(files, memo) == truth(files)


@pytest.mark.usefixtures("later")
def test_a_memo_that_cannot_be_written_is_done_without(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert file_digests(files, tmp_path / "file" / "memo") == truth(files)


def _digest_in_process(files: list[str], memo: Path, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    assert file_digests(files, memo) == truth(files)


@pytest.mark.usefixtures("later")
def test_several_processes_share_a_memo(files: list[str], tmp_path: Path, reads: Reads) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    memo = tmp_path / "memo"
    workers = [context.Process(target=_digest_in_process, args=(files, memo, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert file_digests(files, memo) == truth(files)
    assert reads == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: No such file"):
        file_digests([str(tmp_path / "gone.png")], tmp_path / "memo")


@pytest.mark.usefixtures("later")
def test_where_no_time_of_change_is_told_files_are_read_each_time(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows gives the time of creation in its place."""
    memo = tmp_path / "memo"
    monkeypatch.setattr(hfft.data.content, "os", SimpleNamespace(stat=os.stat, name="nt"))
    first = file_digests(files, memo)
    Path(files[3]).write_bytes(b"\7" * 100)
    os.utime(files[3], (0, 0))
    assert [
        number for number, (one, other) in enumerate(zip(first, file_digests(files, memo), strict=True)) if one != other
    ] == [3]
    assert not memo.exists()
