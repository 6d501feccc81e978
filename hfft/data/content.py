"""What a file is, by its content: SHA-256 of its bytes, remembered so that unchanged files are read once.

The memo is an optimisation. Where it cannot be read or written every file is hashed, and one that is
damaged is begun anew.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from hfft.bars import bar
from hfft.errors import DataError
from hfft.files import default_cache_dir

MEMO = "contents.sqlite"
SETTLED_SECONDS = 2.0
"""A file that changed more recently may change again without another time of change, as in git's index."""

_BLOCK = 1024
_HANDED_OVER = 16  # paths that a thread gets at a time
_SECOND = 10**9
_WAIT_SECONDS = 5.0  # for another process that writes


def file_digests(paths: Sequence[str], memo: Path | None = None) -> list[str]:
    """Return the SHA-256 of each file's bytes as 64 hexadecimal digits.

    Args:
        paths: the files, in any order.
        memo: the file of remembered digests; None for the one in the default cache folder.

    Raises:
        DataError: a file cannot be read.
    """
    memo = memo or default_cache_dir() / MEMO
    digests: list[str] = []
    blocks = range(0, len(paths), _BLOCK)
    with ThreadPoolExecutor() as threads, bar(total=len(paths), desc="Hash", unit="file") as progress:
        for start in blocks:
            block = paths[start : start + _BLOCK]
            digests += _block_digests(block, memo, threads)
            progress.update(len(block))
    return digests


def _block_digests(paths: Sequence[str], memo: Path, threads: ThreadPoolExecutor) -> list[str]:
    keys = _in_threads(threads, _key, paths)
    known = _recall(memo, [key for key in keys if key])
    unknown = {path: key for path, key in zip(paths, keys, strict=True) if key not in known}
    hashed = dict(zip(unknown, _in_threads(threads, _hash, list(unknown)), strict=True))
    # The time of change is read again, since a file may have changed while it was read.
    _remember(memo, {key: hashed[path] for path, key in unknown.items() if key and _key(path) == key})
    return [hashed[path] if path in hashed else known[key] for path, key in zip(paths, keys, strict=True)]


def _in_threads(threads: ThreadPoolExecutor, work: Callable[[str], str], paths: Sequence[str]) -> list[str]:
    """Return what each path gives; handing small files over one by one would take longer than to hash them."""
    parts = [paths[start : start + _HANDED_OVER] for start in range(0, len(paths), _HANDED_OVER)]
    return [found for part in threads.map(lambda part: [work(path) for path in part], parts) for found in part]


def _key(path: str) -> str:
    """Name a file's state, or return nothing where times do not tell whether it changed."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    # Read-only images (squashfs, ISO 9660) and FAT have times in whole seconds, set by whoever made them;
    # Windows gives the time of creation in place of the time of change.
    told = os.name == "posix" and status.st_ctime_ns % _SECOND != 0
    latest = max(status.st_ctime_ns, status.st_mtime_ns)
    if not told or time.time_ns() - latest < SETTLED_SECONDS * _SECOND:
        return ""
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, parts))


def _hash(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(f"cannot read {path}: {error.strerror}; put the file back or leave it out")


def _recall(memo: Path, keys: Sequence[str]) -> dict[str, str]:
    """Return the digests that are known, by key."""
    if not keys or not memo.exists():
        return {}
    try:
        with closing(sqlite3.connect(memo, timeout=_WAIT_SECONDS)) as database:
            query = "SELECT digest, seal FROM contents WHERE key = ?"
            found = {key: database.execute(query, (key,)).fetchone() for key in keys}
    except sqlite3.Error as error:
        _forget(memo, error)
        return {}
    return {key: row[0] for key, row in found.items() if row and row[1] == _seal(key, row[0])}


def _remember(memo: Path, digests: dict[str, str]) -> None:
    rows = [(key, digest, _seal(key, digest)) for key, digest in digests.items()]
    if not rows:
        return
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(memo, timeout=_WAIT_SECONDS)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS contents (key TEXT PRIMARY KEY, digest, seal) WITHOUT ROWID")
            database.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", rows)
    except OSError:
        return
    except sqlite3.Error as error:
        _forget(memo, error)


def _forget(memo: Path, error: sqlite3.Error) -> None:
    """Delete a damaged memo; one that is locked, read-only or out of room (operational errors) stays."""
    if not isinstance(error, sqlite3.OperationalError):
        with suppress(OSError):
            memo.unlink(missing_ok=True)
            memo.with_name(f"{MEMO}-journal").unlink(missing_ok=True)


def _seal(key: str, digest: object) -> str:
    """Tie a digest to its key, since SQLite does not notice when a bit of a value flips."""
    return hashlib.sha256(f"{key} {digest}".encode()).hexdigest()[:16]
