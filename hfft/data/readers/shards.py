"""WebDataset shards, and data sets that are read as a stream."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import datasets

from hfft.arguments import DataArguments
from hfft.bars import bar
from hfft.data.layout import EXTENSIONS, pick_splits, split_of
from hfft.data.readers.archives import members
from hfft.data.readers.folders import open_class_folders
from hfft.data.readers.sources import load_dataset
from hfft.errors import ArgumentError, DataError, one_line

_LABEL_SUFFIXES = (".cls", ".json", ".txt")  # that a WebDataset keeps beside its images
_LOOKED_AT = 20


def shards_of(path: Path) -> list[Path]:
    """The WebDataset shards that a path is, or that a folder holds; empty where there are none."""
    found = sorted(path.glob("[!.]*.tar")) if path.is_dir() else [path] if path.is_file() else []
    return found if found and _is_webdataset(found[0]) else []


def _is_webdataset(path: Path) -> bool:
    """Whether images and labels lie side by side under one key, as in ``0001.jpg`` and ``0001.cls``."""
    if path.suffix.lower() != ".tar" or zipfile.is_zipfile(path):
        return False
    names = list(members(path)[0])
    if len({name.rpartition("/")[0] for name in names if name.lower().endswith(EXTENSIONS)}) > 1:
        return False  # class folders, with something else beside their images
    keys = {_key(name) for name in names[:_LOOKED_AT] if not name.lower().endswith(_LABEL_SUFFIXES)}
    return any(_key(name) in keys for name in names[:_LOOKED_AT] if name.lower().endswith(_LABEL_SUFFIXES))


def _key(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def read_shards(shards: list[Path]) -> datasets.DatasetDict:
    """The images and labels in shards; the first word of a shard's name says its split, train where it says none.

    Raises:
        DataError: a shard cannot be read, or a class in it is not a number where one belongs.
    """
    files: dict[str, list[str]] = {}
    for shard in shards:
        files.setdefault(split_of(shard.name.partition(".")[0]) or "train", []).append(str(shard))
    try:
        loaded = load_dataset("webdataset", None, files)
    except DataError as error:
        if "invalid literal for int()" not in str(error):
            raise
        raise DataError(
            f"{shards[0].parent}: a .cls in its shards holds no number ({one_line(error).rpartition(': ')[2]}); write "
            "names of classes as .txt"
        ) from error
    return datasets.DatasetDict(
        {
            name: split.remove_columns([column for column in split.column_names if column.startswith("__")])
            for name, split in loaded.items()
        }
    )


def read_stream(name: str, data: DataArguments) -> datasets.DatasetDict:
    """The first rows of each split, in the order in which they come, held in memory as they are stored.

    Raises:
        ArgumentError: a limit is missing.
        DataError: it is a file, it cannot be loaded, it breaks off, or its classes are others than without streaming.
    """
    path = Path(name).expanduser()
    if path.is_file():
        raise DataError(f"{name}: a single file is not streamed; leave --streaming out, or give its folder")
    if data.max_train_samples is None or data.max_eval_samples is None:
        raise ArgumentError("--streaming needs --max_train_samples and --max_eval_samples: it reads so many and stops")
    streams = load_dataset(name, data.dataset_config_name, streaming=True)
    picked, found = pick_splits(streams), {}
    if path.is_dir():
        _check_classes(path, streams[picked["train"]])
    for split, source in picked.items():
        most = data.max_train_samples if split == "train" else data.max_eval_samples
        found[source] = _materialised(streams[source], most, f"{name}/{source}")
    return datasets.DatasetDict(found)


def _check_classes(path: Path, stream: Any) -> None:
    """Make sure that a stream's classes are those that class folders are read as without streaming.

    Raises:
        DataError: an image's class is not its innermost folder, which is what a stream takes for it.
    """
    expected = open_class_folders(path).layout.classes
    label = (stream.features or {}).get("label")
    found = label.names if isinstance(label, datasets.ClassLabel) else []
    if expected and set(expected) != set(found):
        raise DataError(
            f"{path}: a stream takes the innermost folder of an image for its class, but these folders are read as "
            f"{', '.join(sorted(expected)[:3])}{', ...' * (len(expected) > 3)}; leave --streaming out: files on this "
            "machine are read as they are needed"
        )


def _materialised(stream: Any, most: int, name: str) -> datasets.Dataset:
    stream = stream if stream.features is not None else stream._resolve_features()
    for column, feature in stream.features.items():
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(column, datasets.Image(decode=False))
    try:
        rows: list[dict[str, Any]] = list(bar(stream.take(most), total=most, desc=f"Reading {name}", unit="image"))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}: the stream broke off ({one_line(error)}); try again, or without --streaming"
        ) from error
    return datasets.Dataset.from_list(rows, features=stream.features)
