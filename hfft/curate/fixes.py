"""Decisions about images, read from a CSV and applied to a new list; the data set itself stays as it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from hfft.arguments import DataArguments, LabelsArguments
from hfft.curate.gather import UNLABELLED, Gathered, gather, path_from, refuse_existing
from hfft.data.images import IMAGE_COLUMN, held
from hfft.data.labels import NamedImages, find_column
from hfft.data.layout import composed
from hfft.data.readers.sources import quiet
from hfft.data.readers.tables import text_rows
from hfft.errors import ArgumentError, DataError, OutputError
from hfft.files import cannot_write, whole_file, write_whole
from hfft.parsing import closest
from hfft.wording import count_of

ACTIONS = ("keep", "relabel", "drop")
_Key = tuple[str, str]  # split and image
_DROPPED, _KEPT = "\0dropped", "\0kept"  # no labels: text tables hold no such character


@dataclass(frozen=True)
class Fixed:
    """A new list, and what was decided.

    Args:
        target: the file.
        images: rows in it.
        dropped: images that are not in it.
        relabelled: images that got another label.
        kept: images that were looked at and stay as they are.
        new: classes that the data set did not have.
        gone: classes that lost their last image.
        grouped: images have groups, in a column of the list.
    """

    target: Path
    images: int
    dropped: int
    relabelled: int
    kept: int
    new: tuple[str, ...]
    gone: tuple[str, ...]
    grouped: bool

    def describe(self) -> str:
        """Say it in a few lines."""
        lines = [
            f"Wrote {self.target}: {count_of(self.images, 'image')}; {self.dropped:,} dropped, "
            f"{self.relabelled:,} relabelled, {self.kept:,} kept as they were."
        ]
        if self.new:
            lines.append(f"New classes: {', '.join(map(repr, self.new))}.")
        if self.gone:
            lines.append(f"Classes without an image now: {', '.join(map(repr, self.gone))}.")
        groups = " --group_column group" if self.grouped else ""
        return "\n".join([*lines, f"Train on it with --dataset_name {self.target}{groups}."])


@dataclass(frozen=True)
class _Row:
    """An image, its label and its new one, `_KEPT` or `_DROPPED`; None where nothing was decided."""

    split: str
    row: int
    file: str
    label: str | None
    decision: str | None
    group: str

    @property
    def new(self) -> str | None:
        """The label in the new list."""
        return self.label if self.decision in (None, _KEPT) else self.decision


def apply_fixes(data: DataArguments, options: LabelsArguments, place: str | None) -> Fixed:
    """Write the list of all images with the decisions applied; no image file is touched.

    Args:
        data: the images, where `place` does not say.
        options: the file of decisions, and where the list goes.
        place: the data set or run that the findings are about.

    Raises:
        ArgumentError: no data set is named.
        DataError: the file of decisions is not usable; the message names the line.
        OutputError: the list cannot be written, or is there already.
    """
    if place is None and data.dataset_name is None and data.train_dir is None:
        raise ArgumentError("name the images as well: hfft labels DATA --apply FIXES.csv")
    target = refuse_existing(options.new_list)
    assert target is not None
    return write_fixed(gather(data, place), Path(str(options.apply)).expanduser(), target)


def write_fixed(gathered: Gathered, decisions: Path, target: Path) -> Fixed:
    """Write the list of images that were gathered, with decisions about them applied.

    Args:
        gathered: the images.
        decisions: a CSV, as of `read_decisions`.
        target: the list, a CSV or Parquet file.

    Raises:
        DataError: the file of decisions is not usable; the message names the line.
        OutputError: the list cannot be written.
    """
    decided = read_decisions(decisions, gathered)
    rows = [
        _Row(split, row, file, label, decided.get((split, file)), group)
        for split, named in gathered.splits.items()
        for row, (file, label, group) in enumerate(zip(named.images.files, named.names, _groups(named), strict=True))
    ]
    left = [each for each in rows if each.decision != _DROPPED]
    if not left:
        raise DataError(f"{decisions}: it drops every image of {gathered.name}")
    (_write_csv if target.suffix.lower() == ".csv" else _write_parquet)(gathered, left, target)
    return _summed_up(target, rows)


def _groups(named: NamedImages) -> list[str]:
    groups = named.images.groups
    return [""] * len(named.names) if groups is None else groups.tolist()


def read_decisions(path: Path, gathered: Gathered) -> dict[_Key, str]:
    """Read what is to become of images: by split and image the label that it is to have, `_KEPT` or `_DROPPED`.

    A row without an action decides nothing. Of several decisions about an image, drop wins.

    Raises:
        DataError: naming the line that is not usable.
    """
    names, lines = text_rows(path, [])
    columns = {name: find_column(names, name) for name in ("image", "split", "action", "new_label", "suggestion")}
    if missing := [name for name in ("image", "action") if columns[name] is None]:
        raise DataError(
            f"{path}: there is no column {missing[0]!r}; hfft labels DATA --output FILE.csv writes such a file"
        )
    known = _Known(gathered)
    decided: dict[_Key, str] = {}
    for number, cells in lines:
        row = dict(zip(names, cells, strict=False))
        given = {name: row.get(column or "", "") for name, column in columns.items()}
        given = {
            name: cell if name == "image" and cell in known.splits else cell.strip() for name, cell in given.items()
        }
        if not given["action"]:
            continue
        where = f"{path}, line {number}"
        key = known.key(given, where)
        label = _outcome(given, known.labels[key], where)
        before = decided.get(key, _KEPT)
        if before != label and {before, label}.isdisjoint((_DROPPED, _KEPT)):
            raise DataError(f"{where}: {given['image']} is to be {label!r}, but {before!r} above; choose one")
        decided[key] = _DROPPED if _DROPPED in (before, label) else label if before == _KEPT else before
    if not decided:
        raise DataError(f"{path}: it decides nothing; write keep, relabel or drop into its column action")
    return decided


class _Known:
    """The images of a data set by name, which several rows of a table may share."""

    def __init__(self, gathered: Gathered) -> None:
        self.name, self.sets = gathered.name, gathered.sets
        self.labels: dict[_Key, set[str | None]] = {}
        self.rows: dict[_Key, list[int]] = {}
        self.splits: dict[str, list[str]] = {}
        for split, named in gathered.splits.items():
            for row, (file, label) in enumerate(zip(named.images.files, named.names, strict=True)):
                self.labels.setdefault((split, file), set()).add(label)
                self.rows.setdefault((split, file), []).append(row)
        for split, file in self.rows:
            self.splits.setdefault(file, []).append(split)

    def key(self, given: dict[str, str], where: str) -> _Key:
        """Return the split and name of the image that a row is about.

        Raises:
            DataError: there is no such image, or it is not clear which one is meant.
        """
        image, splits = given["image"], self.splits.get(given["image"], [])
        key = (given["split"] or splits[0], image) if splits else ("", image)
        if key in self.rows and (given["split"] or len(splits) == 1):
            rows = self.rows[key]
            # A file that is listed twice is one image; pictures without files of their own are several.
            if len(rows) > 1 and self.sets[key[0]].dataset[rows[0]][IMAGE_COLUMN]["bytes"] is not None:
                raise DataError(
                    f"{where}: {len(rows)} images of {key[0]} are called {image}; give each a name of its own"
                )
            return key
        if splits:
            raise DataError(f"{where}: {image} is in {', '.join(splits)}; say which in the column split")
        hint = closest(image, list(self.splits))
        raise DataError(f"{where}: {self.name} has no image {image!r}{hint}")


def _outcome(given: dict[str, str], labels: set[str | None], where: str) -> str:
    """Return the label that a row gives its image, which has some now, or that it is kept or dropped."""
    action = given["action"].casefold()
    if action not in ACTIONS:
        hint = closest(action, list(ACTIONS))
        raise DataError(f"{where}: the action {given['action']!r} is none of {', '.join(ACTIONS)}{hint}")
    if action != "relabel":
        return _DROPPED if action == "drop" else _KEPT
    new = composed(given["new_label"] or given["suggestion"])
    if not new:
        raise DataError(f"{where}: relabel to what? Write it into the column new_label")
    return _KEPT if labels == {new} else new


def _summed_up(target: Path, rows: Sequence[_Row]) -> Fixed:
    left = [each for each in rows if each.decision != _DROPPED]
    relabelled = sum(each.new != each.label for each in left)
    before, after = ({*labels} - {None} for labels in ((r.label for r in rows), (r.new for r in left)))
    return Fixed(
        target,
        len(left),
        len(rows) - len(left),
        relabelled,
        sum(each.decision is not None for each in left) - relabelled,
        tuple(sorted(map(str, after - before))),
        tuple(sorted(map(str, before - after))),
        any(each.group for each in left),
    )


def _write_csv(gathered: Gathered, rows: Sequence[_Row], target: Path) -> None:
    """Write the columns, with the path of an image relative to the file where it lies below its folder."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = _columns(rows)
    writer.writerow([IMAGE_COLUMN, *columns])
    values = {split: list(images.values()) for split, images in gathered.sets.items()}
    for each, *cells in zip(rows, *columns.values(), strict=True):
        value = values[each.split][each.row]
        if value["bytes"] is not None:
            raise OutputError(
                f"the images of {gathered.name} are not files of their own, which a CSV could name; "
                f"give --output {target.with_suffix('.parquet')}, which holds them"
            )
        writer.writerow([path_from(target, value["path"]), *cells])
    try:
        write_whole(target, stream.getvalue().encode())
    except OSError as error:
        raise cannot_write(target, error) from error


def _columns(rows: Sequence[_Row]) -> dict[str, list[str | None]]:
    """Return the columns ``label``, ``split`` and, where there are groups, ``group`` of a list.

    Images that had no labels are there to be trained on once they have.
    """
    splits = ["train" if each.split == UNLABELLED else each.split for each in rows]
    columns: dict[str, list[str | None]] = {"label": [each.new for each in rows], "split": [*splits]}
    return columns | {"group": [each.group for each in rows]} if any(each.group for each in rows) else columns


def _write_parquet(gathered: Gathered, rows: Sequence[_Row], target: Path) -> None:
    """Write the images themselves with their names, labels and splits."""
    values = {split: list(images.values()) for split, images in gathered.sets.items()}
    columns: dict[str, list[Any]] = {
        IMAGE_COLUMN: [held(values[each.split][each.row], each.file) for each in rows],
        **_columns(rows),
    }
    text = dict.fromkeys(columns, datasets.Value("string"))
    features = datasets.Features({**text, IMAGE_COLUMN: datasets.Image(decode=False)})
    try:
        with quiet(True), whole_file(target) as partial:
            datasets.Dataset.from_dict(columns, features).to_parquet(str(partial))
    except OSError as error:
        raise cannot_write(target, error) from error
