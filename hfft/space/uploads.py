"""What strangers upload: images and zips of class folders, checked before anything else touches them.

No name from an upload ever becomes part of a path outside the target folder, nothing is decoded before its
header has been held against the limits, and a zip is unpacked by counted bytes, not by what it declares.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image, UnidentifiedImageError

from hfft.data.images import MAX_PIXELS, Bounds, BoundsError, opened, shrink, upright_rgb
from hfft.data.layout import layout
from hfft.errors import DataError

_LONGEST = 60  # characters of a class's name
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
    """Images that lie in class folders, ready to train on.

    Args:
        counts: images by class.
        left_out: names of what was left out, each with the reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def describe(self) -> str:
        """Return one plain sentence about what is there and one about what is not."""
        text = f"{self.counts.total()} images in {len(self.counts)} classes: " + ", ".join(
            f"{label} ({count})" for label, count in list(self.counts.items())[:12]
        )
        text += ", ..." if len(self.counts) > 12 else ""
        if self.left_out:
            name, reason = self.left_out[0]
            text += f". Left out: {len(self.left_out)}, the first of them {name} ({reason})"
        return text + "."


def open_upload(
    path: str | os.PathLike[str], limits: Limits, name: str | None = None, least: int | None = None
) -> Image.Image:
    """Return the first frame of an uploaded image, upright, in RGB.

    Args:
        path: the file.
        limits: of bytes and pixels; the header is held against them before any pixel is decoded.
        name: what errors call the image.
        least: as for `hfft.data.images.open_image`.

    Raises:
        DataError: it is empty, no image, damaged or too large.
    """
    shown = name or os.path.basename(path)
    try:
        size = os.path.getsize(path)
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
        raise DataError(f"{shown} is no image that can be read; choose a JPEG, PNG or WebP file") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files.
        raise DataError(f"{shown} is damaged ({error or type(error).__name__}); choose another file") from error


def unpack(path: str | os.PathLike[str], target: Path, limits: Limits) -> Uploaded:
    """Unpack a zip of class folders into ``target/<class>/<number>.<ext>``.

    An image's class is the first folder below those that lie around all images; ``train`` and ``test`` there are
    splits, of which ``train`` counts. What is no image is left out.

    Raises:
        DataError: it is no zip, it would write outside the target, it exceeds a limit, or it holds too little.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = Uploaded()
            members = _members(archive, limits, found.left_out)
            budget = limits.megabytes * 1_000_000
            for member, label in members:
                with archive.open(member) as stream:
                    budget = _add(found, target, label, stream, (member.filename, limits, budget))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"this is no zip that can be read ({error}); make it again") from error
    except RuntimeError as error:  # zipfile's word for an encrypted member
        raise DataError("the zip is locked with a password; make one without") from error
    return _enough(found)


def place(files: Mapping[str, Sequence[str | os.PathLike[str]]], target: Path, limits: Limits) -> Uploaded:
    """Copy uploaded files into ``target/<class>/<number>.<ext>``.

    Args:
        files: paths by class.
        target: a folder.
        limits: as for `unpack`.

    Raises:
        DataError: a limit is exceeded, or there is too little.
    """
    _count(list(files), sum(map(len, files.values())), limits)
    found, budget = Uploaded(), limits.megabytes * 1_000_000
    for label, paths in files.items():
        for path in paths:
            with open(path, "rb") as stream:
                budget = _add(found, target, class_name(label), stream, (os.path.basename(path), limits, budget))
    return _enough(found)


def class_name(text: str) -> str:
    """Return what a class may be called: one line without slashes, at most 60 characters.

    Raises:
        DataError: nothing is left of it.
    """
    name = "".join(" " if char in "/\\\0" or not char.isprintable() else char for char in text)
    name = " ".join(name.split()).lstrip(" .")[:_LONGEST]
    # A folder's name may have 255 bytes, which 60 characters of some scripts exceed.
    name = name.encode()[:200].decode(errors="ignore").strip()
    if not name:
        raise DataError(f"a class needs a name with letters or figures, not {text[:_LONGEST]!r}")
    return name


def _members(
    archive: zipfile.ZipFile, limits: Limits, left_out: list[tuple[str, str]]
) -> list[tuple[zipfile.ZipInfo, str]]:
    """Return the training images in a zip with their classes, from its table of contents alone."""
    if len(archive.filelist) > 4 * limits.images + 1000:
        raise DataError(f"the zip has {len(archive.filelist):,} entries; at most {limits.images:,} images are allowed")
    paths = {"/".join(_parts(member)): member for member in archive.infolist() if not member.is_dir()}
    plan = layout(paths)
    if outside := plan.left_out.get("in no class folder"):
        raise DataError(f"{outside[0][-80:]} lies outside any folder; put each image into its class's folder")
    if not plan.splits:
        nested = any(ending in plan.left_out for ending in (".zip", ".gz", ".tar", ".7z", ".rar"))
        more = "; it holds other archives, which are not opened" if nested else ""
        raise DataError(f"the zip holds no images in class folders{more}")
    if "train" not in plan.splits:
        raise DataError(f"the zip holds {', '.join(plan.folders.values())} but no training images; add a folder train")
    for split, entries in plan.splits.items():
        if split != "train":  # training on them would spoil them for a test
            left_out.append((plan.folders[split], f"a split that is not trained on, {len(entries):,} images"))
    names = _class_names(sorted({entry.label for entry in plan.splits["train"]}))
    members = [(paths[entry.source], names[entry.label]) for entry in plan.splits["train"]]
    _count(sorted({label for _, label in members}), len(members), limits)
    declared = sum(member.file_size for member, _ in members)
    if declared > limits.megabytes * 1_000_000:
        raise DataError(f"the zip unpacks to {declared / 1e6:,.0f} MB; at most {limits.megabytes} MB are allowed")
    return members


def _class_names(labels: Sequence[str]) -> dict[str, str]:
    """What each folder's class is called; two folders of one name are refused."""
    names: dict[str, str] = {}
    for label in labels:
        name = class_name(label)
        if name in names.values():
            raise DataError(f"two folders of the zip would be the class {name!r}; give them names that differ more")
        names[label] = name
    return names


def _parts(member: zipfile.ZipInfo) -> list[str]:
    name = member.filename.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")) or not parts:
        raise DataError(f"the zip names a file outside itself ({name[:80]!r}); it is refused")
    return parts


def _count(labels: list[str], images: int, limits: Limits) -> None:
    if len(labels) > limits.classes:
        raise DataError(f"there are {len(labels):,} classes; at most {limits.classes} are allowed here")
    if images > limits.images:
        raise DataError(f"there are {images:,} images; at most {limits.images:,} are allowed here")


def _add(found: Uploaded, target: Path, label: str, stream: IO[bytes], rest: tuple[str, Limits, int]) -> int:
    """Write one image and look at it; return how many bytes may still be written."""
    name, limits, budget = rest
    shown = PurePosixPath(name.replace("\\", "/")).name[-80:]
    folder = target / label
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found.counts.total() + len(found.left_out):05d}{PurePosixPath(shown).suffix.lower() or '.jpg'}"
    with path.open("wb") as output:
        while chunk := stream.read(_CHUNK):
            budget -= len(chunk)
            if budget < 0:
                raise DataError(f"there is more than {limits.megabytes} MB of images; at most that is allowed")
            output.write(chunk)
    try:
        open_upload(path, limits, shown)
    except DataError as error:
        path.unlink()
        found.left_out.append((shown, str(error)))
    else:
        found.counts[label] += 1
    return budget


def _enough(found: Uploaded) -> Uploaded:
    if len(found.counts) < 2:
        reason = f"; {found.left_out[0][1]}" if found.left_out else ""
        raise DataError(f"training needs at least two classes with readable images, found {len(found.counts)}{reason}")
    small = [label for label, count in found.counts.items() if count < 3]
    if small:
        raise DataError(f"each class needs at least three readable images; {small[0]} has {found.counts[small[0]]}")
    return found


def remove(paths: Sequence[str | os.PathLike[str] | None], root: Path) -> None:
    """Delete files and folders below a root; what lies elsewhere, or is gone already, is left alone."""
    for path in _below(paths, root):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _below(paths: Sequence[str | os.PathLike[str] | None], root: Path) -> Iterator[Path]:
    top = root.resolve()
    for path in paths:
        if path is None:
            continue
        resolved = Path(path).resolve()
        if resolved != top and resolved.is_relative_to(top):
            yield resolved
