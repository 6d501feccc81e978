"""Tables with a row per image: CSV, TSV, JSON lines or Parquet, and the metadata files of image folders."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from hfft.arguments import DataArguments
from hfft.data.labels import LABEL_COLUMNS, PATH_COLUMNS, find_column, holds_images
from hfft.data.layout import split_of
from hfft.data.readers.sources import load_dataset, refuse_odd_name
from hfft.errors import DataError
from hfft.wording import count_of

TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def is_metadata(name: str) -> bool:
    """Whether a file says which image has which label, as `datasets` names such files."""
    return name.lower() in ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def read_table(path: Path, data: DataArguments) -> tuple[datasets.DatasetDict, list[str]]:
    """A table's rows by split, and notes; a column ``split`` says which split a row belongs to.

    Raises:
        DataError: it cannot be read, or has no column of images or paths.
    """
    notes: list[str] = []
    rows = table_rows(path, data, notes)
    told = _told_splits(rows, path.name, data, notes)
    return datasets.DatasetDict(train=rows) if told is None else told, notes


def _told_splits(
    rows: datasets.Dataset, name: str, data: DataArguments, notes: list[str]
) -> datasets.DatasetDict | None:
    """The rows by what their column ``split`` says, `notes` grows by those without; None where there is none."""
    column = find_column(rows.column_names, "split")
    if column is None or column == data.image_column_name:
        return None
    words = ["" if word is None else str(word).strip().casefold() for word in rows[column]]
    if without := words.count(""):
        notes.append(f"Left out: {count_of(without, 'row')} of {name} without a split")
    return _by_word(rows.remove_columns(column), words)


def _by_word(rows: datasets.Dataset, words: Sequence[str]) -> datasets.DatasetDict:
    """The rows of each word, in order; those of an empty one are left out."""
    found: dict[str, list[int]] = {}
    for row, word in enumerate(words):
        found.setdefault(word, []).append(row)
    return datasets.DatasetDict({word: rows.select(chosen) for word, chosen in found.items() if word})


def read_metadata(
    folder: Path, files: Sequence[Path], data: DataArguments, images: Sequence[str]
) -> tuple[datasets.DatasetDict, list[str]]:
    """The rows of all metadata files in a folder, by the column or else the folder that says the split, and notes.

    Args:
        folder: of the data set.
        files: the metadata files in it and below.
        data: which columns to read.
        images: paths of all images, relative to the folder.

    Raises:
        DataError: a file cannot be read, or some images lie in the folders of splits and some do not.
    """
    names = ", ".join(str(file.relative_to(folder)) for file in files)
    notes = [f"Read as the rows of {names}"]
    tables = [table_rows(file, data, notes) for file in files]
    rows = datasets.concatenate_datasets(_alike(tables))
    told = _told_splits(rows, names, data, notes)
    column = next((name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)), None)
    values = [] if column is None else rows[column]
    paths = [value["path"] for value in values if value and value["path"] and value["bytes"] is None]
    if len(paths) < len(rows):  # the tables hold images themselves
        return datasets.DatasetDict(train=rows) if told is None else told, notes
    root = folder.resolve()
    files_named = [Path(os.path.abspath(path)) for path in paths]
    places = [(file.relative_to(root) if file.is_relative_to(root) else file).as_posix() for file in files_named]
    if lost := sorted(set(images) - set(places)):
        notes.append(
            f"Left out: {count_of(len(lost), 'image')} that no row names ({lost[0]}{', ...' * (len(lost) > 1)})"
        )
    if told is not None:
        return told, notes
    words = [(split_of(place.partition("/")[0]) if "/" in place else None) or "" for place in places]
    splits = sorted({*words} - {""})
    if "" not in words:
        return _by_word(rows, words), notes
    if splits not in ([], ["train"]):
        raise DataError(
            f"{folder}: some rows of {names} name images in folders that say a split ({', '.join(splits)}), others do "
            f"not ({places[words.index('')]}); move these, or write a column split"
        )
    return datasets.DatasetDict(train=rows), notes


def _alike(tables: Sequence[datasets.Dataset]) -> list[datasets.Dataset]:
    """Give columns of one name one type: numbers where all of them hold numbers, else text.

    Raises:
        DataError: one holds lists or records where another does not.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for table in tables:
        for name, feature in table.features.items():
            kinds.setdefault(name, {})[str(feature)] = feature
    cast: dict[str, datasets.Value] = {}
    for name, found in kinds.items():
        if len(found) > 1:
            if not all(isinstance(feature, datasets.Value) for feature in found.values()):
                raise DataError(f"the column {name!r} holds {' and '.join(found)} in several tables; write it alike")
            numbers = all(re.match("u?int|float", feature.dtype) for feature in found.values())
            cast[name] = datasets.Value("float64" if numbers else "string")
    for name, value in cast.items():
        tables = [table.cast_column(name, value) if name in table.column_names else table for table in tables]
    return list(tables)


def table_columns(path: Path) -> list[str]:
    """The names of a table's columns."""
    if TABLES[path.suffix.lower()] == "csv":
        return text_rows(path, [])[0]
    names: list[str] = _stored(path, TABLES[path.suffix.lower()]).column_names
    return names


def _stored(path: Path, kind: str) -> datasets.Dataset:
    if not path.stat().st_size:
        raise DataError(f"{path}: it is empty; write a row for each image, with its path and its label")
    try:
        return load_dataset(kind, None, {"train": [str(path)]})["train"]
    except DataError as error:
        if path.suffix.lower() == ".jsonl" and (place := _broken_line(path)):
            raise DataError(f"{path}: {place}; mend it") from error
        raise


def _broken_line(path: Path) -> str:
    """Say which line is the first that is not JSON, and why; empty where each is."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                json.loads(line)
            except json.JSONDecodeError as error:
                return f"line {number} is not JSON ({error.msg} at character {error.pos + 1})"
    return ""


def table_rows(path: Path, data: DataArguments, notes: list[str]) -> datasets.Dataset:
    """All rows of a table, paths as images; `notes` grows by what is unusual.

    Raises:
        DataError: it cannot be read, or has no column of images or paths.
    """
    kind = TABLES[path.suffix.lower()]
    rows = _csv_rows(path, data, notes) if kind == "csv" else _stored(path, kind)
    if not len(rows):
        raise DataError(f"{path}: it has no rows; write a row for each image below the names of its columns")
    column = _path_column(rows, path, data.image_column_name)
    if column is None:
        return _placed(rows, path)
    values = [_absolute(value, path, column) for value in rows[column]]
    features = datasets.Features({column: datasets.Image(decode=False)})
    images = datasets.Dataset.from_dict({column: values}, features)
    return datasets.concatenate_datasets([images, rows.remove_columns([column])], axis=1)


def _placed(rows: datasets.Dataset, table: Path) -> datasets.Dataset:
    """A table with a column of images, of which some may be paths of files that lie relative to it."""
    for column, feature in rows.features.items():
        if not isinstance(feature, datasets.Image):
            continue
        rows = rows.cast_column(column, datasets.Image(decode=False))
        stored = rows.select_columns([column])
        if not stored.flatten().data.column(f"{column}.bytes").null_count:  # without the bytes being read
            continue
        values = [
            _absolute(value["path"], table, column) if value and value["path"] and value["bytes"] is None else value
            for value in stored[column]
        ]
        images = datasets.Dataset.from_dict({column: values}, stored.features)
        rows = datasets.concatenate_datasets([images, rows.remove_columns([column])], axis=1)
    return rows


# Text -------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, data: DataArguments, notes: list[str]) -> datasets.Dataset:
    """Every cell as text, so that ``None`` and ``001`` stay what they are; an empty cell is None."""
    names, lines = text_rows(path, notes)
    cells: list[list[str | None]] = [[] for _ in names]
    for number, line in lines:
        if len(line) > len(names) and any(cell.strip() for cell in line[len(names) :]):
            raise DataError(f"{path}: line {number} has {len(line)} cells, but there are {len(names)} columns")
        line = [*line, *[""] * len(names)][: len(names)]
        for column, cell in zip(cells, line, strict=True):
            column.append(cell if cell.strip() else None)
    given = (*(data.label_columns or ()), data.label_column_name, data.group_column)
    texts = [find_column(names, name) for name in given if name]
    table = {
        name: column if name in texts or name.casefold() in LABEL_COLUMNS else _measured(column)
        for name, column in zip(names, cells, strict=True)
    }
    kinds = {
        name: datasets.Value("float64" if any(isinstance(cell, float) for cell in column) else "string")
        for name, column in table.items()
    }
    return datasets.Dataset.from_dict(table, datasets.Features(kinds))


def _measured(column: list[str | None]) -> list[Any]:
    """Numbers where a column holds measurements, which are not classes; else the text."""
    try:
        numbers = [None if cell is None else float(cell) for cell in column]
    except ValueError:
        return column
    return column if all(number is None or number.is_integer() for number in numbers) else numbers


def text_rows(path: Path, notes: list[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The names of a text table's columns, and the lines below them with their numbers; lines of nothing are left out.

    Args:
        path: of the table.
        notes: grows by what is unusual.

    Raises:
        DataError: it cannot be read, is empty, or two columns share a name.
    """
    text = _decoded(path, notes)
    # Excel's first line may say what parts the columns.
    told = re.match(r'"?sep=(.)"?\r?\n', text, re.IGNORECASE)
    text = "\n" + text[told.end() :] if told else text  # lines keep their numbers
    first = next((line for line in text.splitlines() if line.strip()), "")
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    # The sign that parts the most columns; the usual one where several part as many.
    counts = {sign: len(next(csv.reader([first], delimiter=sign), [])) for sign in (usual, *_SEPARATORS)}
    sign = told[1] if told else max(counts, key=lambda each: counts[each])
    if sign != usual:
        notes.append(f"{path.name} is read as separated by {_SEPARATORS.get(sign, repr(sign))}")
    lines = _filled_lines(text, sign, path)
    names = [name.strip() for name in next(lines, (0, []))[1]]
    while names and not names[-1]:
        names.pop()
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: two of its columns are called {twice[0]!r}; rename one")
    if not names:
        raise DataError(f"{path}: it is empty; write a row for each image below a row of names, as image,label")
    return names, lines


def _filled_lines(text: str, sign: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=False)
    try:
        for line in reader:
            if any(cell.strip() for cell in line):
                yield reader.line_num, line
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as a table ({error}); is a quote not closed?") from error


def _decoded(path: Path, notes: list[str]) -> str:
    """The text of a file, whatever it is written in; other than UTF-8 is noted."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for encoding in _encodings(data):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not encoding.startswith("utf-8"):
            notes.append(f"{path.name} is read as {encoding} text, since it is not UTF-8")
        return text
    raise DataError(f"{path}: its encoding is not known; save it as UTF-8")


def _encodings(data: bytes) -> tuple[str, ...]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ("utf-16",)
    if b"\0" in data[:400]:  # no text of single bytes holds it
        return ("utf-16-le",) if data[1:400:2].count(0) > data[:400:2].count(0) else ("utf-16-be",)
    return "utf-8-sig", "cp1252", "latin-1"


# Paths ------------------------------------------------------------------------------------------------


def _path_column(rows: datasets.Dataset, path: Path, wanted: str | None) -> str | None:
    """The column that holds paths; None where a column holds the images themselves."""
    texts = [
        name for name, feature in rows.features.items() if getattr(feature, "dtype", "") in ("string", "large_string")
    ]
    if wanted is not None:
        return find_column(texts, wanted)
    if any(isinstance(feature, datasets.Image) for feature in rows.features.values()):
        return None
    if any(holds_images(feature) and name.casefold() in PATH_COLUMNS for name, feature in rows.features.items()):
        return None
    column = next((found for name in PATH_COLUMNS if (found := find_column(texts, name)) is not None), None)
    if column is None:
        raise DataError(
            f"{path}: no column of paths ({', '.join(PATH_COLUMNS)}); name it with --image_column_name. "
            f"Its columns: {', '.join(rows.column_names)}"
        )
    return column


def _absolute(value: str | None, table: Path, column: str) -> dict[str, str | None]:
    if not value or not value.strip():
        raise DataError(f"{table}: a row has nothing in the column {column!r}; fill it in or leave the row out")
    if re.match(r"[a-z][a-z0-9+.-]+://", value.strip(), re.IGNORECASE):
        raise DataError(f"{table}: {value.strip()} is an address; download the images and give paths of files")
    folder = table.parent.resolve()
    refuse_odd_name(folder)
    return {"path": str(_existing(value, folder)), "bytes": None}


def _existing(value: str, folder: Path) -> Path:
    """The file that a cell names: as written, or else without spaces around it, with slashes, in NFC or NFD."""
    plain = value.strip().replace("\\", "/")
    if value == plain and value.isascii():
        return folder / value
    ways = (value, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD")))
    return next((folder / way for way in ways if (folder / way).exists()), folder / plain)
