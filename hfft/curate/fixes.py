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
from hfft.data.labels import find_column
from hfft.data.layout import composed
from hfft.data.readers.sources import quiet
from hfft.data.readers.tables import text_rows
from hfft.errors import ArgumentError, DataError, OutputError
from hfft.files import cannot_write, whole_file, write_whole
from hfft.parsing import closest

ACTIONS = ("keep", "relabel", "drop")
_Key = tuple[str, str]  # split and image


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
    """

    target: Path
    images: int
    dropped: int
    relabelled: int
    kept: int
    new: tuple[str, ...]
    gone: tuple[str, ...]

    def describe(self) -> str:
        """Say it in a few lines."""
        lines = [
            f"Wrote {self.target}: {self.images:,} images; {self.dropped:,} dropped, {self.relabelled:,} relabelled, "
            f"{self.kept:,} kept as they were."
        ]
        if self.new:
            lines.append(f"New classes: {', '.join(map(repr, self.new))}.")
        if self.gone:
            lines.append(f"Classes without an image now: {', '.join(map(repr, self.gone))}.")
        return "\n".join([*lines, f"Train on it with --dataset_name {self.target}."])


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
        (split, row, decided.get((split, file), label))
        for split, named in gathered.splits.items()
        for row, (file, label) in enumerate(zip(named.images.files, named.names, strict=True))
    ]
    kept_rows = [(split, row, label) for split, row, label in rows if label != _DROPPED]
    if not kept_rows:
        raise DataError(f"{decisions}: it drops every image of {gathered.name}")
    (_write_csv if target.suffix.lower() == ".csv" else _write_parquet)(gathered, kept_rows, target)
    return _summed_up(target, gathered, decided, kept_rows)


def read_decisions(path: Path, gathered: Gathered) -> dict[_Key, str | None]:
    """Read what is to become of images: by split and image the label that it is to have, or `_DROPPED`.

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
    decided: dict[_Key, str | None] = {}
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
        if key in decided and _DROPPED not in (decided[key], label) and _differ(decided[key], label, known.labels[key]):
            raise DataError(f"{where}: {given['image']} is to be {label!r}, but {decided[key]!r} above; choose one")
        decided[key] = _stronger(decided.get(key, known.labels[key]), label, known.labels[key])
    if not decided:
        raise DataError(f"{path}: it decides nothing; write keep, relabel or drop into its column action")
    return decided


_DROPPED = "\0dropped"  # no label: text tables hold no such character


class _Known:
    """The images of a data set, by name."""

    def __init__(self, gathered: Gathered) -> None:
        self.name = gathered.name
        self.labels: dict[_Key, str | None] = {
            (split, file): label
            for split, named in gathered.splits.items()
            for file, label in zip(named.images.files, named.names, strict=True)
        }
        self.splits: dict[str, list[str]] = {}
        for split, file in self.labels:
            self.splits.setdefault(file, []).append(split)

    def key(self, given: dict[str, str], where: str) -> _Key:
        """Return the split and name of the image that a row is about."""
        image, splits = given["image"], self.splits.get(given["image"], [])
        if given["split"] and (given["split"], image) in self.labels:
            return given["split"], image
        if len(splits) == 1 and not given["split"]:
            return splits[0], image
        if splits:
            raise DataError(f"{where}: {image} is in {', '.join(splits)}; say which in the column split")
        hint = closest(image, list(self.splits))
        raise DataError(f"{where}: {self.name} has no image {image!r}{hint}")


def _outcome(given: dict[str, str], label: str | None, where: str) -> str | None:
    """Return the label that a row gives its image, or that it is dropped."""
    action = given["action"].casefold()
    if action not in ACTIONS:
        hint = closest(action, list(ACTIONS))
        raise DataError(f"{where}: the action {given['action']!r} is none of {', '.join(ACTIONS)}{hint}")
    if action != "relabel":
        return _DROPPED if action == "drop" else label
    new = composed(given["new_label"] or given["suggestion"])
    if not new:
        raise DataError(f"{where}: relabel to what? Write it into the column new_label")
    return new


def _differ(first: str | None, second: str | None, label: str | None) -> bool:
    """Whether two decisions give an image two labels, neither of which is the one that it has."""
    return first != second and label not in (first, second)


def _stronger(first: str | None, second: str | None, label: str | None) -> str | None:
    """Of two decisions, to drop an image wins, then to relabel it."""
    if _DROPPED in (first, second):
        return _DROPPED
    return second if first == label else first


def _summed_up(
    target: Path, gathered: Gathered, decided: dict[_Key, str | None], rows: Sequence[tuple[str, int, str | None]]
) -> Fixed:
    labels = _Known(gathered).labels
    dropped = sum(label == _DROPPED for label in decided.values())
    kept = sum(labels[key] == label for key, label in decided.items())
    before, after = {*labels.values()} - {None}, {label for *_, label in rows} - {None}
    return Fixed(
        target,
        len(rows),
        dropped,
        len(decided) - dropped - kept,
        kept,
        tuple(sorted(map(str, after - before))),
        tuple(sorted(map(str, before - after))),
    )


def _write_csv(gathered: Gathered, rows: Sequence[tuple[str, int, str | None]], target: Path) -> None:
    """Write columns ``image`` (relative to the file where it lies below its folder), ``label`` and ``split``."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "label", "split"])
    values = {split: list(images.values()) for split, images in gathered.sets.items()}
    for split, row, label in rows:
        value = values[split][row]
        if value["bytes"] is not None:
            raise OutputError(
                f"the images of {gathered.name} are not files of their own, which a CSV could name; "
                f"give --output {target.with_suffix('.parquet')}, which holds them"
            )
        writer.writerow([path_from(target, value["path"]), label or "", _split(split)])
    try:
        write_whole(target, stream.getvalue().encode())
    except OSError as error:
        raise cannot_write(target, error) from error


def _split(split: str) -> str:
    """Images that had no labels are there to be trained on once they have."""
    return "train" if split == UNLABELLED else split


def _write_parquet(gathered: Gathered, rows: Sequence[tuple[str, int, str | None]], target: Path) -> None:
    """Write the images themselves with their labels and splits."""
    values = {split: list(images.values()) for split, images in gathered.sets.items()}
    columns: dict[str, list[Any]] = {
        IMAGE_COLUMN: [held(values[split][row]) for split, row, _ in rows],
        "label": [label for *_, label in rows],
        "split": [_split(split) for split, *_ in rows],
    }
    text = datasets.Value("string")
    features = datasets.Features({IMAGE_COLUMN: datasets.Image(decode=False), "label": text, "split": text})
    try:
        with quiet(True), whole_file(target) as partial:
            datasets.Dataset.from_dict(columns, features).to_parquet(str(partial))
    except OSError as error:
        raise cannot_write(target, error) from error
