"""Archives of class folders: what they list, and their images as rows that are read from disk as needed."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hfft.bars import bar
from hfft.data.images import IMAGE_COLUMN
from hfft.data.layout import Entry, LeftOut
from hfft.data.readers.sources import quiet
from hfft.errors import DataError, one_line

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_ROW = "row"

Row = tuple[str, str, str]
"""Label, file and member of an image."""


def is_archive(path: Path) -> bool:
    """Whether a file is an archive by its name."""
    return path.is_file() and path.name.lower().endswith(ARCHIVES)


def members(path: Path) -> tuple[dict[str, str], LeftOut]:
    """List an archive: each path, with slashes, and the member's own name; folders end in a slash.

    Links are left out: what they point to may lie outside the archive.

    Returns:
        The members, and what was left out, by reason.

    Raises:
        DataError: the archive cannot be read, is locked with a password, or a name in it is not UTF-8.
    """
    found: dict[str, str] = {}
    left_out: LeftOut = defaultdict(list)
    try:
        for name, own, kind in _zip_members(path) if _is_zip(path) else _tar_members(path):
            if kind == "link":
                left_out["links"].append(name)
            elif kind in ("file", "folder"):
                found[name.replace("\\", "/").rstrip("/") + "/" * (kind == "folder")] = own
    except UnicodeEncodeError as error:
        odd = error.object.encode("utf-8", "surrogateescape")
        raise DataError(f"{path}: the name {odd!r} in it is not UTF-8; rename it, and pack it anew") from error
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, ValueError) as error:
        raise _unreadable(path, error) from error
    return found, left_out


def _is_zip(path: Path) -> bool:
    """Whether a file is a zip by its content, or by its name where its content is not an archive."""
    return zipfile.is_zipfile(path) or (path.suffix.lower() == ".zip" and not tarfile.is_tarfile(path))


def _zip_members(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the name that the zip knows it by, and the kind of each member."""
    with zipfile.ZipFile(path) as opened:
        for info in opened.infolist():
            if info.flag_bits & 1:
                raise DataError(f"{path}: it is locked with a password; unpack it, or pack it without one")
            link = stat.S_ISLNK(info.external_attr >> 16)
            yield unpacked_name(info), info.filename, "link" if link else "folder" if info.is_dir() else "file"


def unpacked_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name: macOS writes UTF-8 without the flag for it, which `zipfile` reads as code page 437."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _tar_members(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the same of a tar.

    Raises:
        UnicodeEncodeError: a name is not UTF-8.
    """
    with tarfile.open(path) as opened:
        for member in opened:
            member.name.encode()
            link = member.issym() or member.islnk()
            kind = "link" if link else "folder" if member.isdir() else "file" if member.isfile() else "other"
            yield member.name, member.name, kind
        # `tarfile` takes a damaged header for the end, which is a block of zeros.
        assert opened.fileobj is not None
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header in its middle is damaged")


def pack(path: Path, entries: Sequence[Entry], names: dict[str, str]) -> datasets.Dataset:
    """Copy the images' bytes to an Arrow file, which is read from disk as needed.

    Args:
        path: the archive.
        entries: which images, in order.
        names: the members' own names by path, as `members` gives them.

    Raises:
        DataError: a member cannot be read.
    """
    features = datasets.Features({IMAGE_COLUMN: datasets.Image(decode=False), _ROW: datasets.Value("int64")})
    rows = tuple((entry.label, entry.file, names[entry.source]) for entry in entries)
    stamp = (path.stat().st_size, path.stat().st_mtime_ns)
    try:
        with quiet(True):
            packed: datasets.Dataset = datasets.Dataset.from_generator(
                _read_members, features=features, gen_kwargs={"path": str(path), "rows": rows, "stamp": stamp}
            )
    except datasets.exceptions.DatasetGenerationError as error:
        raise _unreadable(path, error.__cause__ or error) from error
    return packed.select(np.argsort(packed[_ROW][:])).remove_columns(_ROW)


def _read_members(path: str, rows: tuple[Row, ...], stamp: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the rows as they lie in the archive; `stamp` makes a changed archive another one for the cache."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            for row, (_, file, member) in enumerate(bar(rows, desc=f"Unpacking {Path(path).name}", unit="image")):
                yield {IMAGE_COLUMN: {"bytes": opened.read(member), "path": file}, _ROW: row}
        return
    with tarfile.open(path) as tar:
        # To go back in a compressed archive is to unpack it again from its beginning.
        places = {member.name: member for member in tar.getmembers()}
        order = sorted(range(len(rows)), key=lambda row: places[rows[row][2]].offset)
        for row in bar(order, desc=f"Unpacking {Path(path).name}", unit="image"):
            _, file, member = rows[row]
            stream = tar.extractfile(places[member])
            assert stream is not None  # only regular files are listed
            yield {IMAGE_COLUMN: {"bytes": stream.read(), "path": file}, _ROW: row}


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path}: cannot be read ({one_line(error)}); it may be truncated, copy it again")
