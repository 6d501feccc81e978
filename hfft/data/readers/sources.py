"""Where images lie: files below a folder, and what the `datasets` library loads."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfft.data.layout import LeftOut, hidden
from hfft.errors import DataError, one_line

if TYPE_CHECKING:
    import datasets


def walk(folder: Path) -> tuple[list[str], LeftOut]:
    """List what lies below a folder, links followed, each real folder once.

    Returns:
        Paths relative to the folder, with slashes, those of folders with one at the end (hidden folders are named
        but not entered); and what was left out, by reason.

    Raises:
        DataError: a folder cannot be read, or a name is not UTF-8.
    """
    paths: list[str] = []
    left_out: LeftOut = defaultdict(list)
    seen = {os.path.realpath(folder)}
    todo: list[str] = [""]
    links: list[str] = []
    while todo or links:
        # Links come last, so that a folder is known by its own name and not by that of a link to it.
        place = todo.pop() if todo else links.pop(0)
        real = os.path.realpath(folder / place)
        if place and real in seen:
            left_out["folders that were read already"].append(place)
            continue
        seen.add(real)
        paths += [place] if place else []
        for entry in _entries(folder / place):
            name = place + entry.name
            if not entry.is_dir():
                # A broken link stays in, so that it is named as an image that cannot be opened.
                usual = entry.is_file() or not os.path.exists(entry)
                (paths if usual else left_out["that are not files"]).append(name)
            elif hidden(entry.name):
                paths.append(f"{name}/")
            else:
                (links if entry.is_symlink() else todo).append(f"{name}/")
    return paths, left_out


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in entries:
            entry.name.encode()
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror}); change its permissions") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{folder}: the name {os.fsencode(entry.name)!r} is not UTF-8; rename it") from error
    return entries


def refuse_odd_name(folder: Path) -> None:
    """Make sure that the paths of a folder's images are UTF-8, as Arrow holds them.

    Raises:
        DataError: they are not.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{os.fsencode(folder)!r}: its name is not UTF-8; rename it") from error


def is_saved(folder: Path) -> bool:
    """Whether the datasets library saved a data set in a folder."""
    whole, split = ("dataset_dict.json",), ("dataset_info.json", "state.json")
    return any(all((folder / marker).is_file() for marker in markers) for markers in (whole, split))


def load_dataset(
    name: str, config: str | None, files: dict[str, list[str]] | None = None, **options: Any
) -> datasets.DatasetDict:
    """The splits of a data set on the Hub or in a folder, as the datasets library reads it.

    Args:
        name: Hub id, folder, or one of the library's own formats.
        config: configuration of the data set, where it has several.
        files: by split, the files of a format.
        options: of `datasets.load_dataset`, ``streaming`` for instance.

    Raises:
        DataError: it cannot be loaded.
    """
    import datasets

    name = os.path.expanduser(name)
    folder = Path(name)
    try:
        with quiet(folder.is_dir() or files is not None):
            if is_saved(folder):
                loaded = datasets.load_from_disk(name)
            else:
                loaded = datasets.load_dataset(name, config, data_files=files, **options)
    except (OSError, ValueError, LookupError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # Its own words for a broken file hold no cause.
        reason = one_line((type(error).__name__ == "DatasetGenerationError" and error.__cause__) or error)
        place = next(iter(files.values()))[0] if files else name
        local, other = (
            "mend the file, or write it anew",
            "give a Hub id, or a folder that the datasets library can load",
        )
        raise DataError(f"--dataset_name {place}: cannot be loaded ({reason}); {local if files else other}") from error
    return loaded if isinstance(loaded, dict) else datasets.DatasetDict(train=loaded)


@contextmanager
def quiet(active: bool) -> Iterator[None]:
    """No progress bars of `datasets` for what is on this machine, nor words of its own beside an error's."""
    import datasets

    if not active:  # downloads keep theirs
        yield
        return
    bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
