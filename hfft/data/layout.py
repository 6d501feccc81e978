"""What a set of paths is taken for: which folders are splits, which are classes, and what is left out and why.

The rules are the same for a folder on disk, a zip, a tar and an upload: only the paths are looked at.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from PIL import Image

from hfft.errors import DataError
from hfft.wording import count_of

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Our names for the splits, each with the words that the datasets library knows it by, the first one first."""

_SPLIT_OF = {word: split for split, words in SPLIT_NAMES.items() for word in words}
_SYSTEM = ("__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # Pillow reads their headers, or runs another program


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in _NO_PICTURES)


FORMATS = _formats()
"""Pillow's names for the formats that are read, whatever a file's ending says."""


LeftOut = dict[str, list[str]]
"""Files and folders that were left out, by reason: an ending, or a few words."""

_AS_JPEG = "MPO"  # of several JPEGs, which Pillow's reader of JPEG opens as well: it reads the first
EXTENSIONS = tuple(
    sorted(ending for ending, kind in Image.registered_extensions().items() if kind in (*FORMATS, _AS_JPEG))
)
"""Endings of files that Pillow can decode here, in small letters."""


@dataclass(frozen=True)
class Entry:
    """An image with its class.

    Args:
        label: name of the class, composed (NFC).
        file: path below the folder of its split.
        source: the path as it was given.
    """

    label: str
    file: str
    source: str

    @property
    def folder(self) -> str:
        """The folder that holds it, below that of its split."""
        return self.file.rpartition("/")[0]


@dataclass(frozen=True)
class Layout:
    """What the paths are taken for.

    Args:
        splits: images by the name of their split (``train``, ``validation``, ``test``), in order of class, folder and
            file; ``train`` alone where no folders are splits.
        folders: the folder of each split relative to the paths' root; empty where no folders are splits.
        root: the folder around the class or split folders, relative to the paths' root; most often empty.
        empty: class folders without images, each with a count of the endings of what lies there.
        left_out: files and folders that were left out, by reason.
        notes: what to tell the user beside `describe`.
    """

    splits: dict[str, list[Entry]]
    folders: dict[str, str]
    root: str
    empty: dict[str, Counter[str]]
    left_out: LeftOut
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """The names of all classes, sorted."""
        return sorted({entry.label for entries in self.splits.values() for entry in entries})

    def place(self, split: str) -> str:
        """The folder that the files of a split are relative to, relative to the paths' root."""
        return "/".join(part for part in (self.root, self.folders.get(split, "")) if part)

    def describe(self) -> str:
        """Say in one line what the paths were taken for."""
        splits = ", ".join(f"{split} (folder {folder})" for split, folder in self.folders.items())
        inside = f"; inside the folder {self.root}" if self.root else ""
        return (
            f"Read as {f'the splits {splits}; ' if splits else ''}{counted(self.classes, 'class', 'classes')}, one "
            f"folder each{inside}; left out: {_amounts(self.left_out) or 'nothing'}"
        )


def counted(names: Sequence[str], one: str, many: str, most: int = 5) -> str:
    """Return how many names there are, and the first of them."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{count_of(len(names), one, many)} ({', '.join(names[:most])}{more})"


def hidden(name: str) -> bool:
    """Whether a file or folder is the system's own business."""
    return name.startswith(".") or name.lower() in _SYSTEM + _SYSTEM_FILES


def composed(name: str) -> str:
    """A name in NFC: systems differ in how they write the same letters."""
    return unicodedata.normalize("NFC", name)


def split_of(name: str) -> str | None:
    """The split that a name stands for: ``Train``, ``training_set`` or ``seg_train``; None for any other name."""
    found = {_SPLIT_OF[word] for word in re.split(r"[-._ 0-9]+", name.casefold()) if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None


def pick_splits(names: Iterable[str]) -> dict[str, str]:
    """By our name of a split, the one of `names` that stands for it.

    Exact names (without regard to case) go before names that hold the word; of several such names none is taken.
    """
    given = list(names)
    picked = {}
    for split, words in SPLIT_NAMES.items():
        exact = [name for word in words for name in given if name == word]
        exact += [name for word in words for name in given if name.casefold() == word]
        loose = [name for name in given if split_of(name) == split]
        if exact or len(loose) == 1:
            picked[split] = (exact or loose)[0]
    return picked


def layout(
    paths: Iterable[str], known: Collection[str] = (), dropped: Mapping[str, Sequence[str]] | None = None
) -> Layout:
    """Tell splits, classes and images from paths alone.

    Args:
        paths: relative, with slashes; a path that ends in a slash is a folder.
        known: classes that are known already: a folder of such a name is a class.
        dropped: what was left out before, by reason.

    Raises:
        DataError: folders are neither clearly splits nor clearly classes, or two folders have one name.
    """
    left_out: LeftOut = defaultdict(list)
    left_out.update({reason: list(names) for reason, names in (dropped or {}).items()})
    items = _in_folders(_items(paths, left_out), left_out)
    items, root = _unwrapped(items, set(known), left_out)
    folders, notes = _split_folders(items, left_out)
    splits, empty = {}, {}
    for split, folder in folders.items() if folders else [("train", "")]:
        inner = _in_folders(_below(items, folder), left_out) if folder else items
        splits[split] = sorted(_entries(inner), key=_folder_order)
        if split == "train":
            empty = _empty(inner)
    return Layout({name: rows for name, rows in splits.items() if rows}, folders, root, empty, left_out, notes)


@dataclass(frozen=True)
class _Item:
    """A path that is not hidden; `kind` is ``image``, ``file`` or ``folder``."""

    source: str
    parts: tuple[str, ...]
    kind: str

    @property
    def top(self) -> str | None:
        """The first folder of the path."""
        return self.parts[0] if len(self.parts) > 1 or self.kind == "folder" else None


def _items(paths: Iterable[str], left_out: LeftOut) -> Iterator[_Item]:
    secret: dict[tuple[str, ...], None] = {}
    for path in dict.fromkeys(paths):
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        concealed = next((place for place, part in enumerate(parts) if hidden(part)), None)
        if climbs(path):
            left_out["that lead outside"].append(path)
        elif concealed is not None:
            secret[parts[: concealed + 1]] = None
        elif path.endswith("/"):
            if parts:
                yield _Item(path, parts, "folder")
        elif parts[-1].lower().endswith(EXTENSIONS):
            yield _Item(path, parts, "image")
        else:
            left_out[ending_of(parts[-1])].append(path)
            yield _Item(path, parts, "file")
    if secret:
        left_out["hidden"] += ["/".join(parts) for parts in secret]


def climbs(path: str) -> bool:
    """Whether a path leads outside the folder or archive that names it."""
    return path.startswith("/") or ".." in path.split("/") or bool(re.match(r"[A-Za-z]:/", path))


def ending_of(name: str) -> str:
    """The ending of a file's name, as the count of what is left out calls it."""
    return PurePosixPath(name).suffix.lower() or "without an ending"


def _unwrapped(items: list[_Item], known: set[str], left_out: LeftOut) -> tuple[list[_Item], str]:
    """Without the one folder that lies around all class folders."""
    root: list[str] = []
    while True:
        tops = {item.top for item in items if item.top is not None}
        if len(tops) != 1:
            break
        top = str(tops.pop())
        inside = [item for item in items if item.kind == "image" and item.top == top]
        if not inside or composed(top) in known or any(len(item.parts) < 3 for item in inside) or split_of(top):
            break
        root.append(top)
        items = _in_folders(_below(items, top), left_out)
    return items, "/".join(root)


def _below(items: Iterable[_Item], folder: str) -> Iterator[_Item]:
    """What lies in a folder, by its path there."""
    return (replace(i, parts=i.parts[1:]) for i in items if i.parts[0] == folder and len(i.parts) > 1)


def _in_folders(items: Iterable[_Item], left_out: LeftOut) -> list[_Item]:
    """What lies in folders; images beside them have no class."""
    inner = []
    for item in items:
        if item.top is not None:
            inner.append(item)
        elif item.kind == "image":
            left_out["in no class folder"].append(item.source)
    return inner


def _split_folders(items: list[_Item], left_out: LeftOut) -> tuple[dict[str, str], tuple[str, ...]]:
    """The folder of each split, and notes; no folders where all of them are classes.

    A folder is a split where its name says so and most of its images lie in folders below it.
    """
    images: dict[str, list[_Item]] = {}
    for item in items:
        images.setdefault(item.parts[0], []).extend([item] if item.kind == "image" else [])
    deep = {top for top, found in images.items() if sum(len(i.parts) > 2 for i in found) * 2 > len(found)}
    classes = {top: {composed(i.parts[1]) for i in images[top] if len(i.parts) > 2} for top in sorted(deep)}
    splits = [top for top in sorted(deep) if split_of(top)]
    filled = sorted(top for top, found in images.items() if found)
    if not splits:
        if filled and all(top.casefold() in _SPLIT_OF for top in filled):
            raise DataError(
                f"its folders {', '.join(filled)} look like splits, but hold no folders; put the images of each class "
                "into a folder of its own in each"
            )
        return {}, tuple(_look_alike(classes, filled))
    common = set().union(*(classes[top] for top in splits))
    others = [top for top in filled if top not in splits]
    strange = [top for top in others if top not in deep or not classes[top] & common]
    if strange and all(top.casefold() not in _SPLIT_OF for top in splits):
        return {}, ()
    if strange:
        raise DataError(
            f"its folders {', '.join(splits)} look like splits, but {', '.join(strange[:3])} like "
            f"{'classes' if len(strange) > 1 else 'a class'}; take apart what is not a split, or rename what is a class"
        )
    folders = pick_splits([*splits, *others])
    if not folders:
        raise DataError(
            f"its folders {', '.join(splits)} look like splits, but several of them like the same; name them train, "
            "validation and test"
        )
    unused = [top for top in [*splits, *others] if top not in folders.values()]
    for top in unused:
        left_out["in splits given to nothing"] += [item.source for item in images[top]]
    return folders, tuple(given_to_nothing(unused))


def given_to_nothing(splits: Iterable[str]) -> Iterator[str]:
    """Yield a note where a data set has splits that are not used."""
    names = list(splits)
    if names:
        word = "splits" if len(names) > 1 else "split"
        yield f"Given to nothing: the {word} {', '.join(names)}; train, validation and test are read"


def _look_alike(classes: Mapping[str, set[str]], filled: list[str]) -> Iterator[str]:
    """A note where all top folders only hold folders, and at least half of each one's names are in others too."""
    counts = Counter(name for names in classes.values() for name in names)
    repeated = {name for name, count in counts.items() if count > 1}
    alike = all(len(names & repeated) * 2 >= len(names) for names in classes.values())
    if repeated and alike and len(counts) > 1 and sorted(classes) == filled:
        yield (
            f"Warning: the folders {', '.join(classes)} are read as classes, but repeat the folders "
            f"{', '.join(sorted(repeated)[:3])}: where they are splits, name them train, validation and test"
        )


def _entries(items: Iterable[_Item]) -> Iterator[Entry]:
    written: dict[str, str] = {}
    for item in items:
        if item.kind != "image":
            continue
        label = composed(item.parts[0])
        if written.setdefault(label, item.parts[0]) != item.parts[0]:
            raise DataError(f"two of its folders are called {label!r}, composed and decomposed; make them one")
        yield Entry(label, "/".join(item.parts), item.source)


def _folder_order(entry: Entry) -> tuple[str, str, str]:
    """The order in which torchvision's ImageFolder walks: by class, folder and file."""
    folder, _, file = entry.file.rpartition("/")
    return entry.label, folder, file


def _empty(items: Iterable[_Item]) -> dict[str, Counter[str]]:
    """Class folders without images, and the endings that lie there."""
    found: dict[str, Counter[str]] = {}
    filled = set()
    for item in items:
        label = composed(item.parts[0])
        endings = found.setdefault(label, Counter())
        endings.update([ending_of(item.parts[-1])] if item.kind == "file" else [])
        filled.update([label] if item.kind == "image" else [])
    return {name: endings for name, endings in sorted(found.items()) if name not in filled}


def _amounts(left_out: LeftOut) -> str:
    most = sorted(left_out.items(), key=lambda reason: -len(reason[1]))
    return ", ".join(f"{len(names):,} {reason} ({names[0]}{', ...' * (len(names) > 1)})" for reason, names in most)


def seen_endings(endings: Counter[str]) -> str:
    """Say in brackets which endings were seen, and that Pillow does not read them here; empty where there are none."""
    if not endings:
        return ""
    seen = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(5))
    return f" (its files: {seen}, which Pillow does not read here)"
