"""From columns to labels: a class each, lists of classes, columns of yes and no, or numbers; and which of them."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from hfft.arguments import DataArguments
from hfft.data.layout import composed
from hfft.errors import DataError
from hfft.tasks.contract import Label, Task
from hfft.tasks.label_tree import LABEL_TREE, tidy
from hfft.tasks.multi_label import MULTI_LABEL
from hfft.tasks.registry import TASKS
from hfft.tasks.regression import REGRESSION
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.wording import count_of

AUTO = "auto"
_LARGEST = 3.4028234663852886e38  # of float32
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")


@dataclass(frozen=True)
class Labelled:
    """What the images of a split are labelled with.

    Args:
        labels: of each row, None where it has none.
        order: all classes, or the targets, in the data set's order.
        task: what they mean.
        notes: what they were taken for, where that was not said.
    """

    labels: list[Label | None]
    order: list[str]
    task: Task
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of labels.

    Args:
        place: the data set's name, for errors.
        name: of the column.
        feature: its type.
        values: of its rows.
    """

    place: str
    name: str
    feature: Any
    values: list[Any]

    @classmethod
    def of(cls, dataset: datasets.Dataset, name: str, place: str) -> Column:
        """Read a column."""
        return cls(place, name, dataset.features[name], dataset.with_format(None)[name][:])

    @property
    def dtype(self) -> str:
        """Type of its values; empty where they are not plain values."""
        return self.feature.dtype if isinstance(self.feature, datasets.Value) else ""

    @property
    def holds_lists(self) -> bool:
        """Whether its values are lists."""
        return isinstance(self.feature, list | datasets.Sequence | datasets.List)


def read_column(column: Column, data: DataArguments) -> Labelled:
    """Return what a column of labels says of each row.

    Raises:
        DataError: it does not hold what the task reads.
    """
    kind, why = (data.task, "") if data.task != AUTO else _guess(column, data)
    readers: dict[str, Callable[[], tuple[list[Label | None], list[str]]]] = {
        SINGLE_LABEL.name: lambda: _single(column),
        LABEL_TREE.name: lambda: _in_tree(column),
        MULTI_LABEL.name: lambda: _several(column, data.label_separator),
        REGRESSION.name: lambda: _numbers(column),
    }
    labels, order = readers[kind]()
    notes = [f"Read as {kind}: {why}"] if why else []
    if bare := labels.count(()):
        notes.append(
            f"{count_of(bare, 'image has', 'images have')} no label in the column {column.name!r}: none of the classes"
        )
    return Labelled(labels, order, TASKS[kind], tuple(notes))


def read_columns(columns: Sequence[Column], data: DataArguments) -> Labelled:
    """Return what several columns say of each row: yes and no for each label, or a number for each target.

    Raises:
        DataError: they do not hold what the task reads.
    """
    names = [column.name for column in columns]
    flags = [[_flag(value) for value in column.values] for column in columns]
    yes_or_no = all(flag is not None for column in flags for flag in column)
    kind = data.task if data.task != AUTO else MULTI_LABEL.name if yes_or_no else REGRESSION.name
    what = "yes and no" if yes_or_no else "numbers"
    notes = (f"Read as {kind}: the columns {', '.join(names)} hold {what}",) if data.task == AUTO else ()
    if kind == REGRESSION.name:
        numbers = [_column_numbers(column) for column in columns]
        rows = [None if None in row else row for row in zip(*numbers, strict=True)]
        return Labelled(rows, names, REGRESSION, notes)
    if not yes_or_no:
        wrong = next(column for column, each in zip(columns, flags, strict=True) if None in each)
        value = next(value for value in wrong.values if _flag(value) is None)
        raise DataError(f"{wrong.place}: the column {wrong.name!r} holds {value!r}; a label's column holds 1 or 0")
    given = [tuple(name for name, yes in zip(names, row, strict=True) if yes) for row in zip(*flags, strict=True)]
    if empty := [column.name for column in columns for value in column.values if _text(value) == ""]:
        where = ", ".join(dict.fromkeys(empty))
        notes = (*notes, f"{len(empty):,} empty cells of {where} are read as no")
    return Labelled(list(given), names, MULTI_LABEL, notes)


def _guess(column: Column, data: DataArguments) -> tuple[str, str]:
    """Return the task that a column is for, and why where it is not the usual one."""
    where = f"the column {column.name!r} holds"
    if data.label_separator is not None:
        return MULTI_LABEL.name, f"{where} labels with {data.label_separator!r} between them"
    if column.holds_lists:
        inner = getattr(getattr(column.feature, "feature", None), "dtype", "")
        if inner.startswith("float"):
            return REGRESSION.name, f"{where} lists of numbers"
        return MULTI_LABEL.name, f"{where} lists"
    if _written_lists(column.values) is not None:
        return MULTI_LABEL.name, f"{where} lists"
    fraction = next((value for value in _all_numbers(column) if value % 1), None)
    if fraction is not None:
        return REGRESSION.name, f"{where} numbers such as {fraction:g}"
    return SINGLE_LABEL.name, ""


def _all_numbers(column: Column) -> list[float]:
    """Return the finite numbers of a column, as such or written out; none where it holds anything else."""
    given = [value for value in column.values if _text(value)]
    if not column.dtype.startswith(("float", "string", "large_string")):
        return []
    try:
        numbers = [float(value) for value in given]
    except ValueError:
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


# One label --------------------------------------------------------------------------------------------


def _single(column: Column) -> tuple[list[Label | None], list[str]]:
    """The label of each row, None where it has none, and all labels in the data set's order."""
    feature, dtype = column.feature, column.dtype
    if isinstance(feature, datasets.ClassLabel):
        order = [composed(label) for label in feature.names]
        return [None if value is None or value < 0 else order[value] for value in column.values], order
    if not (is_label_type(feature) or dtype.startswith("float")):
        several = "lists" if column.holds_lists else "values of several types"
        what = f"{dtype} values" if dtype else "records" if isinstance(feature, dict) else several
        raise DataError(
            f"{column.place}: the column {column.name!r} holds {what}, and single_label reads one label for each image"
        )
    plain = [_plain(value) for value in column.values]
    if broken := [value for value in plain if isinstance(value, float)]:
        raise DataError(
            f"{column.place}: the column {column.name!r} holds numbers such as {broken[0]:g}, which are not classes; "
            "--task regression estimates them"
        )
    order = [str(value) for value in sorted({value for value in plain if value is not None})]
    return [None if value is None else str(value) for value in plain], order


def is_label_type(feature: Any) -> bool:
    """Whether a column's type is that of classes: text, whole numbers, or yes and no."""
    kind = getattr(feature, "dtype", "") if isinstance(feature, datasets.Value) else ""
    return kind in ("string", "large_string", "bool") or kind.startswith(("int", "uint"))


def _in_tree(column: Column) -> tuple[list[Label | None], list[str]]:
    """The same of labels that are paths in a tree."""
    labels, order = _single(column)
    named = [None if label is None else tidy(label) or None for label in labels]
    return list(named), list(dict.fromkeys(name for label in order if (name := tidy(label))))


def _plain(value: Any) -> Any:
    """A label without spaces around it, composed; whole numbers as such; None where there is nothing."""
    if isinstance(value, str):
        return composed(value.strip()) or None
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


# Several labels ---------------------------------------------------------------------------------------


def _several(column: Column, separator: str | None) -> tuple[list[Label | None], list[str]]:
    """The labels of each row, none where its cell is empty, and all labels in order."""
    parts = _parts(column, separator)
    inner = getattr(column.feature, "feature", None) or column.feature
    named = [composed(label) for label in inner.names] if isinstance(inner, datasets.ClassLabel) else []
    if odd := [each for row in parts for each in row if isinstance(each, list | tuple | dict | set)]:
        raise DataError(
            f"{column.place}: the column {column.name!r} holds {odd[0]!r} within a list; a label is text or a number"
        )
    found = sorted({each for row in parts for each in row}, key=lambda each: (isinstance(each, str), each))
    return [tuple(dict.fromkeys(map(str, row))) for row in parts], named or [str(each) for each in found]


def _parts(column: Column, separator: str | None) -> list[list[Any]]:
    feature, values = column.feature, column.values
    inner = getattr(feature, "feature", None)
    if column.holds_lists and isinstance(inner, datasets.ClassLabel):
        known = [[value for value in row or () if value is not None and value >= 0] for row in values]
        return [[composed(inner.names[value]) for value in row] for row in known]
    if column.holds_lists:
        return [_cleaned(row or ()) for row in values]
    if (written := _written_lists(values)) is not None:
        return [_cleaned(row) for row in written]
    if isinstance(feature, datasets.ClassLabel):
        return [[] if value is None or value < 0 else [composed(feature.names[value])] for value in values]
    if separator is not None:
        return [_cleaned(str(value).split(separator) if value is not None else ()) for value in values]
    if column.dtype in ("string", "large_string"):
        raise DataError(
            f"{column.place}: the column {column.name!r} holds text; say by --label_separator what parts the labels of "
            "an image in it, for example ',', or name a column for each label with --label_columns"
        )
    return [_cleaned([value]) for value in values]


def _cleaned(values: Sequence[Any]) -> list[Any]:
    return [plain for value in values if (plain := _plain(value)) is not None]


def _written_lists(values: Sequence[Any]) -> list[Sequence[Any]] | None:
    """Lists that are written out in text, as a CSV holds them; None where some text is not one."""
    filled = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if not filled or not all(text.startswith("[") and text.endswith("]") for text in filled):
        return None
    try:
        rows = [ast.literal_eval(value.strip()) if isinstance(value, str) and value.strip() else () for value in values]
    except (ValueError, SyntaxError):
        return None
    return rows if all(isinstance(row, list | tuple) for row in rows) else None


def _flag(value: Any) -> bool | None:
    """Whether a cell says yes; None where it says neither yes nor no."""
    text = _text(value)
    return True if text in _YES else False if text in _NO else None


def _text(value: Any) -> str:
    """What a cell says, in small letters; empty where it says nothing."""
    return "" if value is None or value != value else str(value).strip().lower()


# Numbers ----------------------------------------------------------------------------------------------


def _numbers(column: Column) -> tuple[list[Label | None], list[str]]:
    """The number of each row, or its list of numbers; None where there is none."""
    written = _written_lists(column.values)
    if not column.holds_lists and written is None:
        return [None if value is None else (value,) for value in _column_numbers(column)], [column.name]
    rows = [tuple(row) if row else None for row in (column.values if written is None else written)]
    lengths = sorted({len(row) for row in rows if row is not None})
    if len(lengths) != 1:
        raise DataError(
            f"{column.place}: the lists in the column {column.name!r} hold {' or '.join(map(str, lengths))} numbers; "
            "each needs the same count"
        )
    names = [f"{column.name}_{place}" for place in range(1, lengths[0] + 1)]
    return [row and tuple(_number(value, column) for value in row) for row in rows], names


def _column_numbers(column: Column) -> list[float | None]:
    return [_number(value, column) for value in column.values]


def _number(value: Any, column: Column) -> float | None:
    """Return a finite number, None where there is none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("inf")
    if number != number:
        return None
    if abs(number) > _LARGEST or isinstance(column.feature, datasets.ClassLabel):
        what = "larger than float32 holds" if _LARGEST < abs(number) < float("inf") else "not a number to estimate"
        raise DataError(
            f"{column.place}: the column {column.name!r} holds {value!r}, which is {what}; name another with "
            "--label_column_name or --label_columns"
        )
    return number
