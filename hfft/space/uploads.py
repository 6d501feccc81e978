"""What strangers upload: images and zips of class folders, checked before anything else touches them.

No name from an upload ever becomes part of a path outside the target folder, nothing is decoded before its
header has been held against the limits, and a zip is unpacked by counted bytes, not by what it declares.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import lzma
import os
import shutil
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError

from hfft.data.images import MAX_PIXELS, Bounds, BoundsError, opened, shrink, upright_rgb
from hfft.data.layout import composed, layout, seen_endings
from hfft.data.readers.archives import unpacked_name
from hfft.errors import DataError
from hfft.wording import count_of

_LONGEST = 60  # characters of a class's name
_NOT_IN_NAMES, _NOT_AT_END = ('/\\:*?"<>|', " .") if os.name == "nt" else ("/\\", " ")  # of folders
_JOINERS = "\u200c\u200d"  # not printable to Python, and part of Persian words and of emoji
_DIRECTIONS = dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))  # of writing
_TITLES = {"train": "To train on", "validation": "To validate on", "test": "To test on"}
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Limits:
    """What an upload may take.

    Args:
        megabytes: of one upload, and of all that a zip unpacks to.
        images: of one training.
        classes: of one training.
        pixels: of one image.
        batch: images of one batch to classify.
    """

    megabytes: int = 200
    images: int = 2000
    classes: int = 50
    pixels: int = MAX_PIXELS
    batch: int = 64


@dataclass
class Uploaded:
    """Images in ``<split>/<class>/``, ready to train on.

    Args:
        counts: images by split (``train``, ``validation``, ``test``) and class.
        left_out: names of what was left out, each with the reason.
        notes: what else the reader of the folders has to say.
        bytes: that were written, left out or not.
        seen: by the SHA-256 of each image's file, what it was called.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bytes: int = 0
    seen: dict[str, str] = field(default_factory=dict)

    def of(self, split: str) -> dict[str, int]:
        """Return the images by class of a split."""
        return {label: count for (part, label), count in self.counts.items() if part == split}

    def describe(self) -> str:
        """Return one plain sentence about what is there for each split, and one about what is not."""
        text = " ".join(map(self._describe, filter(self.of, _TITLES)))
        if self.of("train") and not self.of("validation"):
            text += " Some of the training images are held back to validate on."
        if self.left_out:
            name, reason = self.left_out[-1]
            text += f" Left out: {len(self.left_out)}, the last of them {name} ({reason})."
        return " ".join([text, *self.notes]).strip()

    def _describe(self, split: str) -> str:
        counts = self.of(split)
        shown = ", ".join(f"{label} ({count})" for label, count in list(counts.items())[:12])
        more = ", ..." if len(counts) > 12 else ""
        images, classes = sum(counts.values()), len(counts)
        return (
            f"{_TITLES[split]}: {count_of(images, 'image')} in {count_of(classes, 'class', 'classes')}: {shown}{more}."
        )

    def check(self) -> None:
        """Make sure that a model can be trained on this.

        Raises:
            DataError: there are fewer than two classes, fewer than three images of one, or a class to test alone.
        """
        train = self.of("train")
        if len(train) < 2:
            reason = f"; {self.left_out[0][0]}: {self.left_out[0][1]}" if self.left_out else ""
            raise DataError(f"training needs at least two classes with readable images, found {len(train)}{reason}")
        for label, count in train.items():
            if count < 3:
                more = f"; {len(self.left_out)} were left out: {self.left_out[0][1]}" if self.left_out else ""
                raise DataError(f"each class needs at least three readable images; {label} has {count}{more}")
        if strange := sorted({label for _, label in self.counts} - set(train)):
            raise DataError(f"{strange[0]} has no training images; put some into train/{strange[0]}")


def open_upload(
    path: str | os.PathLike[str] | io.BytesIO, limits: Limits, name: str | None = None, least: int | None = None
) -> Image.Image:
    """Return the first frame of an uploaded image, upright, in RGB.

    Args:
        path: the file, or its bytes.
        limits: of bytes and pixels; the header is held against them before any pixel is decoded.
        name: what errors call the image.
        least: as for `hfft.data.images.open_image`.

    Raises:
        DataError: it is gone, empty, not an image, damaged or too large.
    """
    shown = name or ("the image" if isinstance(path, io.BytesIO) else os.path.basename(path))
    try:
        size = len(path.getbuffer()) if isinstance(path, io.BytesIO) else os.path.getsize(path)
        if not size:
            raise DataError(f"{shown} is empty; choose another file")
        if size > limits.megabytes * 1_000_000:
            raise DataError(f"{shown} is larger than {limits.megabytes} MB; choose a smaller file")
        with opened(path, Bounds(limits.pixels)) as image:
            shrink(image, least)
            return upright_rgb(image)
    except BoundsError as error:
        raise DataError(f"{shown} is {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{shown} is not an image that can be read; choose a JPEG, PNG or WebP file") from error
    except FileNotFoundError as error:
        raise DataError(_GONE.format(shown)) from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files.
        raise DataError(f"{shown} is damaged ({error or type(error).__name__}); choose another file") from error


_GONE = "{} is no longer here; choose it again"


def frame(address: str, limits: Limits) -> bytes:
    """Return the bytes of a picture that a page's camera took.

    Args:
        address: of data: ``data:image/jpeg;base64,...``.
        limits: of bytes.

    Raises:
        DataError: it is not such an address, or too long.
    """
    kind, _, text = address.partition(",") if isinstance(address, str) else ("", "", "")
    if kind not in _FRAMES or len(text) > limits.megabytes * 1_000_000:
        raise DataError("this is not a picture that a camera took; turn the camera off and on again")
    return _decoded(text, "the camera's picture came damaged ({}); take it again")


def _decoded(text: str, wrong: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise DataError(wrong.format(error)) from error


@contextmanager
def sent(address: str, work: Path, limits: Limits) -> Iterator[Path]:
    """Give the file that a program sent; what came as an address of data is gone after this context.

    Args:
        address: of data (``data:...;base64,...``), or of a file that was uploaded to this server before, as the answer
            to the upload calls it or as a link to it.
        work: the Space's work folder.
        limits: of bytes.

    Raises:
        DataError: there is no such file, or it is too large. No other address is opened.
    """
    if not address.startswith("data:"):
        yield _uploaded(address, work)
        return
    path = _written(address, work, limits)
    try:
        yield path
    finally:
        remove([path.parent], work)


def _written(address: str, work: Path, limits: Limits) -> Path:
    kind, _, text = address.partition(",")
    if not kind.endswith(";base64"):
        raise DataError("a data address must hold base64; write data:image/jpeg;base64, and the bytes")
    if len(text) * 3 // 4 > limits.megabytes * 1_000_000:
        raise DataError(f"the file is larger than {limits.megabytes} MB; at most that is allowed")
    content = _decoded(text, "the data address is damaged ({}); encode the bytes in base64")
    folder = work / "uploads" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(content)
    return folder / "file"


def _uploaded(address: str, work: Path) -> Path:
    place = unquote(address.partition("/file=")[2]) or address
    for path in _below([place], work / "uploads"):
        if path.is_file():
            return path
    raise DataError(
        "this is neither a data address nor a file that was uploaded to this server; send data:...;base64,... or "
        "upload the file to /gradio_api/upload first"
    )


_FRAMES = tuple(f"data:image/{kind};base64" for kind in ("jpeg", "png", "webp"))


def unpack(path: str | os.PathLike[str], target: Path, limits: Limits) -> Uploaded:
    """Unpack a zip of class folders into ``target/<split>/<class>/<number>.<ext>``.

    Splits and classes are told as for any data set, see `hfft.data.layout.layout`. What is not an image, or is an
    image that is there already, is left out.

    Raises:
        DataError: it is gone, it is not a zip, it would write outside the target, two folders would be one class, it
            exceeds a limit, or it holds too little.
    """
    found = Uploaded()
    try:
        with zipfile.ZipFile(path) as archive:
            for member, split, label in _members(archive, limits, found):
                with archive.open(member) as stream:
                    add(found, target, (split, label), stream, (unpacked_name(member), limits))
    except FileNotFoundError as error:
        raise DataError(_GONE.format("the zip")) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(_NO_ZIP.format(error)) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # what bz2 raises, and a place before the file's beginning
            raise
        raise DataError(_NO_ZIP.format(error)) from error
    except RuntimeError as error:  # zipfile's word for an encrypted member
        raise DataError("the zip is locked with a password; make one without") from error
    found.check()
    return found


_NO_ZIP = "this is not a zip that can be read ({}); make it again"


def place(found: Uploaded, label: str, paths: Sequence[str | os.PathLike[str]], target: Path, limits: Limits) -> None:
    """Copy uploaded files into ``target/train/<class>/<number>.<ext>``, beside those that are there.

    Args:
        found: what is there; it is brought up to date.
        label: of the class.
        paths: of the files.
        target: a folder.
        limits: as for `unpack`.

    Raises:
        DataError: the class has no name, a limit is exceeded, or a file is gone.
    """
    name = class_name(label)
    name = next((known for known in found.of("train") if known.casefold() == name.casefold()), name)
    _count({*found.of("train"), name}, found.counts.total() + len(paths), limits)
    for path in paths:
        shown = os.path.basename(path)
        try:
            with open(path, "rb") as stream:
                add(found, target, ("train", name), stream, (shown, limits))
        except FileNotFoundError as error:
            raise DataError(_GONE.format(shown)) from error


def class_name(text: str) -> str:
    """Return what a class may be called: one line without slashes, at most 60 characters.

    Raises:
        DataError: nothing is left of it.
    """
    letters = composed(text).translate(_DIRECTIONS | dict.fromkeys(map(ord, _NOT_IN_NAMES), " "))
    name = "".join(char if char.isprintable() or char in _JOINERS else " " for char in letters)
    name = " ".join(name.split()).lstrip(f" .{_JOINERS}")[:_LONGEST]
    # A folder's name may have 255 bytes, which 60 characters of some scripts exceed.
    name = name.encode()[:200].decode(errors="ignore").strip(f" {_JOINERS}").rstrip(_NOT_AT_END)
    if not name:
        raise DataError(f"a class needs a name with letters or figures, not {text[:_LONGEST]!r}")
    return name


def _members(archive: zipfile.ZipFile, limits: Limits, found: Uploaded) -> list[tuple[zipfile.ZipInfo, str, str]]:
    """Return the images in a zip with their splits and classes, from its table of contents alone."""
    if len(archive.filelist) > 4 * limits.images + 1000:
        raise DataError(f"the zip has {len(archive.filelist):,} entries; at most {limits.images:,} images are allowed")
    paths = {"/".join(_parts(member)): member for member in archive.infolist() if not member.is_dir()}
    plan = layout(paths)
    if outside := plan.left_out.get("in no class folder"):
        raise DataError(f"{outside[0][-80:]} lies outside any folder; put each image into its class's folder")
    if not plan.splits:
        endings = Counter({reason: len(files) for reason, files in plan.left_out.items() if reason.startswith(".")})
        nested = endings.keys() & {".zip", ".gz", ".tar", ".7z", ".rar"}
        more = seen_endings(endings) + "; save photos as JPEG or PNG" if endings else ""
        if nested:
            more = "; it holds other archives, which are not opened"
        raise DataError(f"the zip holds no images in class folders{more}")
    if "train" not in plan.splits:
        raise DataError(f"the zip holds {', '.join(plan.folders.values())} but no training images; add a folder train")
    names = class_names(plan.classes)
    members = [
        (paths[entry.source], split, names[entry.label]) for split, entries in plan.splits.items() for entry in entries
    ]
    _count(names, len(members), limits)
    declared = sum(member.file_size for member, _, _ in members)
    if declared > limits.megabytes * 1_000_000:
        raise DataError(f"the zip unpacks to {declared / 1e6:,.0f} MB; at most {limits.megabytes} MB are allowed")
    others = {reason: files for reason, files in plan.left_out.items() if reason != "hidden"}
    found.left_out += [(PurePosixPath(file).name[-80:], reason) for reason, files in others.items() for file in files]
    found.notes += plan.notes
    return members


def class_names(labels: Iterable[str]) -> dict[str, str]:
    """Return what each class may be called, see `class_name`.

    Raises:
        DataError: two of them would be called the same, or be one folder where case does not count.
    """
    names: dict[str, str] = {}
    for label in labels:
        name = class_name(label)
        if name.casefold() in map(str.casefold, names.values()):
            raise DataError(f"two classes would be called {name!r}; give them names that differ more")
        names[label] = name
    return names


def _parts(member: zipfile.ZipInfo) -> list[str]:
    name = unpacked_name(member).replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")) or not parts:
        raise DataError(f"the zip names a file outside itself ({name[:80]!r}); it is refused")
    return parts


def _count(labels: Collection[str], images: int, limits: Limits) -> None:
    if len(labels) > limits.classes:
        raise DataError(f"there are {len(labels):,} classes; at most {limits.classes} are allowed here")
    if images > limits.images:
        raise DataError(f"there are {images:,} images; at most {limits.images:,} are allowed here")


def add(found: Uploaded, target: Path, place_: tuple[str, str], stream: IO[bytes], rest: tuple[str, Limits]) -> None:
    """Write one image, look at it, and leave it out where it is damaged or there already.

    What is left out, or exceeds a limit, leaves no file, and no folder of a class without images.

    Args:
        found: what is there; it is brought up to date.
        target: a folder, outside of which nothing is written, whatever the class is called.
        place_: split, one of this program's own words, and class.
        stream: the image's bytes.
        rest: the image's name, and the limits.

    Raises:
        DataError: the class has no name, or a limit is exceeded.
    """
    (name, limits), split, label = rest, place_[0], class_name(place_[1])
    shown = PurePosixPath(name.replace("\\", "/")).name[-80:]
    number = found.counts.total() + len(found.left_out)
    path = target / split / label / f"{number:05d}{PurePosixPath(shown).suffix.lower() or '.jpg'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        content = _write(stream, path, found, limits)
        why = _unusable(found, path, content, (shown, limits))
    except BaseException:
        _take_back(path)
        raise
    if why:
        _take_back(path)
        found.left_out.append((shown, why))
        return
    found.counts[split, label] += 1
    found.seen[content] = f"{'' if split == 'train' else f'{split}/'}{label}/{shown}"


def _write(stream: IO[bytes], path: Path, found: Uploaded, limits: Limits) -> str:
    """Write what a stream holds, and return its SHA-256."""
    content = hashlib.sha256()
    with path.open("wb") as output:
        while chunk := stream.read(_CHUNK):
            found.bytes += len(chunk)
            if found.bytes > limits.megabytes * 1_000_000:
                raise DataError(f"there is more than {limits.megabytes} MB of images; at most that is allowed")
            output.write(chunk)
            content.update(chunk)
    return content.hexdigest()


def _unusable(found: Uploaded, path: Path, content: str, rest: tuple[str, Limits]) -> str:
    """Say why an image is left out; nothing where it is not."""
    if other := found.seen.get(content):
        return f"it is the same file as {other}, and a model must not be judged on what it learned from"
    shown, limits = rest
    try:
        open_upload(path, limits, shown)
    except DataError as error:
        return str(error)
    return ""


def _take_back(path: Path) -> None:
    """Delete an image, and the folders of its class and its split where they hold no other."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds others
        path.parent.rmdir()
        path.parent.parent.rmdir()


def remove(folders: Sequence[Path | None], root: Path) -> None:
    """Delete folders below a root; what lies elsewhere, or is gone already, is left alone.

    A file that a page uploaded is not this program's to delete: two visitors who upload the same bytes share one.
    Gradio deletes it when it is old.
    """
    for folder in _below(folders, root):
        shutil.rmtree(folder, ignore_errors=True)


def _below(paths: Sequence[str | os.PathLike[str] | None], root: Path) -> Iterator[Path]:
    top = root.resolve()
    for path in paths:
        if path is None:
            continue
        resolved = Path(path).resolve()
        if resolved != top and resolved.is_relative_to(top):
            yield resolved
