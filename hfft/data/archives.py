"""Data sets that are one file, or shards: archives of image folders, tables of paths, WebDataset shards, streams.

Each becomes a `datasets.DatasetDict` whose rows come in the order in which the same images come from a folder
of class folders, so that labels, checks and results do not depend on how the images are packed.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import datasets

from hfft.arguments import DataArguments
from hfft.data.images import IMAGE_COLUMN
from hfft.data.sources import EXTENSIONS, SPLIT_NAMES, hidden, load_dataset, quiet
from hfft.errors import ArgumentError, DataError, one_line

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
PATH_COLUMNS = ("image", "file_name", "image_path", "file", "path", "filename", "filepath")
"""Columns that hold paths, where none is named; the first that is there counts."""

_SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_LABEL_SUFFIXES = (".cls", ".json", ".txt")  # that only a WebDataset keeps beside its images


def load_source(data: DataArguments) -> datasets.DatasetDict:
    """Load what ``--dataset_name`` names: a file, a folder of shards, a folder, or a Hub id.

    Raises:
        DataError: it cannot be loaded, or holds no images.
        ArgumentError: ``--streaming`` lacks a limit.
    """
    name = str(data.dataset_name)
    path = Path(name).expanduser()
    if data.streaming:
        return _streamed(name, data)
    shards = sorted(path.glob("*.tar")) if path.is_dir() else []
    if shards and _is_webdataset(shards[0]):
        return _webdataset(shards)
    if not path.is_file():
        return load_dataset(name, data.dataset_config_name)
    if path.name.lower().endswith(ARCHIVES):
        return _webdataset([path]) if _is_webdataset(path) else _archive(path)
    if path.suffix.lower() in TABLES:
        return _table(path, data.image_column_name)
    known = ", ".join((*ARCHIVES, *TABLES))
    raise DataError(
        f"--dataset_name {path}: this kind of file is not known; give a folder, a Hub id, or one of {known}"
    )


# Archives of class folders ----------------------------------------------------------------------------


def _archive(path: Path) -> datasets.DatasetDict:
    """One folder per class, or one folder per split with one folder per class in each."""
    members = _image_members(path)
    top = {parts[0] for parts in members.values()}
    while len(top) == 1 and all(len(parts) > 2 for parts in members.values()):
        members = {name: parts[1:] for name, parts in members.items()}
        top = {parts[0] for parts in members.values()}
    split = bool(top) and top <= set(_SPLITS) and all(len(parts) > 2 for parts in members.values())
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for name, parts in members.items():
        inner = parts[1:] if split else parts
        if len(inner) > 1:
            folder, file = "/".join(inner[:-1]), inner[-1]
            rows.setdefault(_SPLITS[parts[0]] if split else "train", []).append((inner[0], f"{folder}/{file}", name))
    if not rows:
        raise DataError(
            f"--dataset_name {path}: it holds no images in folders; put those of each class in a folder of its own"
        )
    stamp = (path.stat().st_size, path.stat().st_mtime_ns)
    return datasets.DatasetDict(
        {name: _packed(path, sorted(found, key=_folder_order), stamp) for name, found in rows.items()}
    )


def _folder_order(row: tuple[str, str, str]) -> tuple[str, str, str]:
    """The order in which torchvision's ImageFolder walks: by class, folder and file."""
    folder, _, file = row[1].rpartition("/")
    return row[0], folder, file


def _packed(path: Path, rows: list[tuple[str, str, str]], stamp: tuple[int, int]) -> datasets.Dataset:
    """The images' bytes in an Arrow file, which is read from disk as needed."""
    labels = sorted({label for label, _, _ in rows})
    features = datasets.Features(
        {IMAGE_COLUMN: datasets.Image(decode=False), "label": datasets.ClassLabel(names=labels)}
    )
    with quiet(True):
        packed: datasets.Dataset = datasets.Dataset.from_generator(
            _read_members, features=features, gen_kwargs={"path": str(path), "rows": tuple(rows), "stamp": stamp}
        )
    return packed


def _read_members(
    path: str, rows: tuple[tuple[str, str, str], ...], stamp: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Yield the rows in order; `stamp` makes a changed archive another one for the cache."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            for label, file, member in rows:
                yield {IMAGE_COLUMN: {"bytes": opened.read(member), "path": file}, "label": label}
        return
    with tarfile.open(path) as tar:
        for label, file, member in rows:
            stream = tar.extractfile(member)
            assert stream is not None  # only regular files are listed
            yield {IMAGE_COLUMN: {"bytes": stream.read(), "path": file}, "label": label}


def _image_members(path: Path) -> dict[str, tuple[str, ...]]:
    """The images in an archive: each member's name with the parts of its path."""
    found = {}
    for name in _member_names(path):
        parts = tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part != ".")
        if parts and parts[-1].lower().endswith(EXTENSIONS) and not any(hidden(part) for part in parts):
            found[name] = parts
    if not found:
        raise DataError(f"--dataset_name {path}: it holds no images ({', '.join(EXTENSIONS)})")
    return found


def _member_names(path: Path) -> list[str]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as opened:
                return [info.filename for info in opened.infolist() if not info.is_dir()]
        with tarfile.open(path) as tar:
            return [member.name for member in tar if member.isfile()]
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        reason = one_line(error)
        raise DataError(
            f"--dataset_name {path}: cannot be read ({reason}); it may be truncated, copy it again"
        ) from error


# WebDataset shards ------------------------------------------------------------------------------------


def _is_webdataset(path: Path) -> bool:
    """Whether images and labels lie side by side under one key, as in ``0001.jpg`` and ``0001.cls``."""
    if path.suffix.lower() != ".tar" or zipfile.is_zipfile(path):
        return False
    return any(name.lower().endswith(_LABEL_SUFFIXES) for name in _member_names(path)[:20])


def _webdataset(shards: list[Path]) -> datasets.DatasetDict:
    files: dict[str, list[str]] = {}
    for shard in shards:
        word = shard.name.lower().replace("_", "-").replace(".", "-").partition("-")[0]
        files.setdefault(_SPLITS.get(word, "train"), []).append(str(shard))
    loaded = load_dataset("webdataset", None, files)
    return datasets.DatasetDict(
        {
            name: split.remove_columns([column for column in split.column_names if column.startswith("__")])
            for name, split in loaded.items()
        }
    )


# Tables with a column of paths ------------------------------------------------------------------------


def _table(path: Path, image_column: str | None) -> datasets.DatasetDict:
    """A CSV, JSON lines or Parquet file; a column ``split`` says which split a row belongs to."""
    kind = TABLES[path.suffix.lower()]
    rows = load_dataset(kind, None, {"train": [str(path)]}, **({"sep": "\t"} if path.suffix == ".tsv" else {}))["train"]
    column = _path_column(rows, path, image_column)
    if column is not None:
        values = [_absolute(value, path.parent, column) for value in rows[column]]
        rows = rows.remove_columns([column])
        features = datasets.Features({column: datasets.Image(decode=False)})
        images = datasets.Dataset.from_dict({column: values}, features)
        rows = datasets.concatenate_datasets([images, rows], axis=1)
    if "split" not in rows.column_names or image_column == "split":
        return datasets.DatasetDict(train=rows)
    words = [str(word).lower() for word in rows["split"]]
    found = {word: [row for row, each in enumerate(words) if each == word] for word in dict.fromkeys(words)}
    return datasets.DatasetDict({word: rows.select(chosen).remove_columns("split") for word, chosen in found.items()})


def _path_column(rows: datasets.Dataset, path: Path, wanted: str | None) -> str | None:
    """The column that holds paths; None where a column holds the images themselves."""
    texts = [
        name for name, feature in rows.features.items() if getattr(feature, "dtype", "") in ("string", "large_string")
    ]
    if wanted is not None:
        return wanted if wanted in texts else None
    if any(isinstance(feature, datasets.Image) for feature in rows.features.values()):
        return None
    column = next((name for name in PATH_COLUMNS if name in texts), None)
    if column is None:
        raise DataError(
            f"--dataset_name {path}: no column of paths ({', '.join(PATH_COLUMNS)}); name it with "
            f"--image_column_name. Its columns: {', '.join(rows.column_names)}"
        )
    return column


def _absolute(value: str | None, folder: Path, column: str) -> dict[str, str | None]:
    if not value:
        raise DataError(f"{folder}: a row has nothing in the column {column!r}; fill it in or leave the row out")
    return {"path": str(folder.resolve() / value), "bytes": None}


# Streams ----------------------------------------------------------------------------------------------


def _streamed(name: str, data: DataArguments) -> datasets.DatasetDict:
    """The first rows of each split, in the order in which they come, held in memory as they are stored."""
    if data.max_train_samples is None or data.max_eval_samples is None:
        raise ArgumentError("--streaming needs --max_train_samples and --max_eval_samples: it reads so many and stops")
    streams = load_dataset(name, data.dataset_config_name, streaming=True)
    found = {}
    for split, stream in streams.items():
        if split in _SPLITS:
            most = data.max_train_samples if _SPLITS[split] == "train" else data.max_eval_samples
            found[split] = _materialised(stream, most, f"{name}/{split}")
    return datasets.DatasetDict(found)


def _materialised(stream: Any, most: int, name: str) -> datasets.Dataset:
    stream = stream if stream.features is not None else stream._resolve_features()
    for column, feature in stream.features.items():
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(column, datasets.Image(decode=False))
    try:
        rows: Iterable[dict[str, Any]] = list(stream.take(most))
    except (OSError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        raise DataError(f"{name}: the stream broke off ({reason}); try again, or without --streaming") from error
    return datasets.Dataset.from_list(list(rows), features=stream.features)
