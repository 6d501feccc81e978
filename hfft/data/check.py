"""What is wrong with a set of images, before a model learns from it.

A finding is data: how bad it is, what it is, and which files it is about. `check_parts` reads every pixel;
`quick_check` is for the moment before training, and reads headers and equally long files alone.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hfft.arguments import DataArguments
from hfft.data.duplicates import equal_groups, near_groups
from hfft.data.grey import DEEP_MODES
from hfft.data.images import IMAGE_COLUMN, MAX_ASPECT, MAX_PIXELS, ImageSet
from hfft.data.labels import NamedImages, alike_names
from hfft.data.load import ImageSets
from hfft.data.probe import ImageProbe, probe_images
from hfft.data.sampling import with_groups
from hfft.tasks.contract import Label, Task
from hfft.wording import count_of

FEW_IMAGES = 10  # training images of a class: below this, a finding
IMBALANCE = 10  # images of the largest class per image of the smallest: from here on, a finding
TINY_PIXELS = 32  # shorter side: below this, a note
MOST_NAMES = 5  # of classes in a finding
QUICK_HEADERS = 2000
"""Most headers that the quick check reads, spread evenly over the images."""
QUICK_BYTES = 256 * 2**20
"""Most bytes that the quick check reads to compare files."""

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or unusual.

    Args:
        severity: ``error`` (training fails or its metrics deceive), ``warning`` or ``note``.
        kind: a word for programs.
        what: a sentence for people.
        files: what it is about, each as ``split: file``.
        groups: the same files, those that belong together side by side; empty where each stands for itself.
    """

    severity: str
    kind: str
    what: str
    files: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Part:
    """A split to check: its images, and the label of each, None where it has none."""

    split: str
    images: ImageSet
    names: list[Label | None]

    @property
    def counts(self) -> Counter[str]:
        """Images of each class."""
        task = self.images.task
        return Counter(part for name in self.names if name is not None for part in task.parts(name))


@dataclass(frozen=True)
class _Image:
    """One image of any split with all that findings are made from."""

    split: str
    file: str
    label: Label | None
    probe: ImageProbe

    @property
    def name(self) -> str:
        return f"{self.split}: {self.file}"


def named_parts(splits: dict[str, NamedImages], data: DataArguments) -> list[Part]:
    """Make parts of splits whose labels are still names.

    Args:
        splits: by name.
        data: which of their images belong together.

    Raises:
        DataError: groups cannot be told as `data` says.
    """
    zeros = {split: np.zeros(len(named.names), np.int64) for split, named in splits.items()}
    return [
        Part(split, with_groups(replace(named.images, labels=zeros[split]), data), named.names)
        for split, named in splits.items()
    ]


def parts_of(sets: ImageSets) -> list[Part]:
    """Make parts of the sets that a run trains on."""
    splits = {"train": sets.train, "validation": sets.validation, "test": sets.test}
    return [
        Part(split, images, images.task.decode(images.labels, sets.labels))
        for split, images in splits.items()
        if images is not None
    ]


def check_parts(
    parts: Sequence[Part],
    progress: Callable[[Iterable[ImageProbe], int], Iterable[ImageProbe]],
    workers: int | None = None,
) -> list[Finding]:
    """Read every image with all cores and say what is wrong, the worst first.

    Args:
        parts: the splits.
        progress: wraps the probes as they come, given how many there will be; ``tqdm`` for instance.
        workers: as for `hfft.data.probe.probe_images`.
    """
    probes = (probe for part in parts for probe in probe_images(part.images, workers=workers))
    seen = iter(progress(probes, sum(len(part.images) for part in parts)))
    images = [
        _Image(part.split, file, _unordered(part.images.task, label), next(seen))
        for part in parts
        for file, label in zip(part.images.files, part.names, strict=True)
    ]
    for _ in seen:  # lets the progress bar come to its end
        pass
    return _sorted([*_class_findings(parts), *_image_findings(images, _tables(parts)), *_duplicate_findings(images)])


def _step(images: int) -> int:
    """One in how many images is looked at where no more than `QUICK_HEADERS` are read."""
    return max(1, -(-images // QUICK_HEADERS))


def quick_check(parts: Sequence[Part]) -> list[Finding]:
    """Say what can be seen without decoding: at most 2,000 headers and 256 MB of files that may be equal."""
    step = _step(sum(len(part.images) for part in parts))
    images = [
        _Image(part.split, part.images.files[probe.row], part.names[probe.row], probe)
        for part in parts
        for probe in probe_images(part.images, range(0, len(part.images), step), decode=False)
    ]
    twins = [
        _Image(part.split, part.images.files[row], part.names[row], ImageProbe(row, content=content))
        for part, row, content in _equally_long(parts)
    ]
    return _sorted([*_class_findings(parts), *_image_findings(images, _tables(parts)), *_duplicate_findings(twins)])


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _class_findings(parts: Sequence[Part]) -> Iterator[Finding]:
    counts = {part.split: part.counts for part in parts}
    train = counts.get("train", Counter())
    few = [name for name, count in train.items() if count < FEW_IMAGES]
    if few:
        yield Finding("warning", "few_images", f"{_classes(few)} with fewer than {FEW_IMAGES} training images")
    yield from _single_images(parts)
    if len(train) == 1 and all(part.images.task.chooses for part in parts):
        yield Finding("error", "one_class", f"all training images are of one class, {next(iter(train))!r}")
    if train and max(train.values()) >= IMBALANCE * min(train.values()):
        (most, high), (least, low) = train.most_common()[0], train.most_common()[-1]
        yield Finding(
            "warning", "imbalance", f"{high:,} training images are of {most!r}, but only {low:,} of {least!r}"
        )
    if merged := alike_names(train):
        shown = ", ".join(" = ".join(map(repr, group)) for group in merged[:MOST_NAMES])
        more = " ..." * (len(merged) > MOST_NAMES)
        yield Finding(
            "warning", "alike_classes", f"classes whose names differ in case or spaces alone: {shown}{more}; where one "
            "is meant, write it one way"
        )  # fmt: skip
    for part in parts:
        if part.split != "train" and train:
            unknown = [name for name in counts[part.split] if name not in train]
            absent = [name for name in train if name not in counts[part.split]]
            if unknown:
                yield Finding("error", "unknown_class", f"{part.split}: {_classes(unknown)} without training images")
            if absent and counts[part.split]:
                yield Finding("warning", "absent_class", f"{part.split}: {_classes(absent)} without an image")
        nameless = [row for row, name in enumerate(part.names) if name is None]
        if nameless:
            severity = "note" if part.split == "test" and len(nameless) == len(part.names) else "error"
            files = tuple(f"{part.split}: {part.images.files[row]}" for row in nameless)
            yield Finding(
                severity, "no_label", f"{part.split}: {count_of(len(nameless), 'image')} without a label", files
            )


def _single_images(parts: Sequence[Part]) -> Iterator[Finding]:
    """Classes of which no image can be set aside where a validation split must be made: `split_off` refuses them."""
    train = next((part for part in parts if part.split == "train"), None)
    if train is None or not train.images.task.chooses or train.images.groups is not None:
        return
    lonely = [name for name, count in train.counts.items() if count == 1]
    if lonely and all(part.split != "validation" for part in parts):
        files = tuple(f"train: {train.images.files[train.names.index(name)]}" for name in lonely)
        what = f"{_classes(lonely)} with a single image: hfft finetune needs two of each, or validation images"
        yield Finding("error", "single_image", what, files)


_PROBLEM_WORDS = {
    "missing": "that cannot be opened",
    "empty": "of zero bytes",
    "not_an_image": "in no format that hfft reads",
    "bomb": f"with more than {MAX_PIXELS // 10**6} megapixels, to be scaled down",
    "too_long": f"longer than {MAX_ASPECT}:1, too long to be scaled to a model's input unless cropped",
    "damaged": "truncated or damaged",
}


def _tables(parts: Sequence[Part]) -> list[str]:
    """The folders that paths in tables are relative to."""
    return sorted({str(part.images.root) for part in parts if part.images.file is not None})


def _image_findings(images: Sequence[_Image], tables: Sequence[str]) -> Iterator[Finding]:
    for problem, words in _PROBLEM_WORDS.items():
        of_this_kind = [image for image in images if image.probe.problem == problem]
        for finding in _about(of_this_kind, "error", problem, words, lambda probe: True):
            looked = f"; looked for below {', '.join(tables)}" if tables and problem == "missing" else ""
            yield replace(finding, what=finding.what + looked)
    sound = [image for image in images if not image.probe.problem]
    yield from _about(
        sound, "note", "tiny", f"under {TINY_PIXELS} pixels on a side", lambda probe: min(probe.size) < TINY_PIXELS
    )
    yield from _about(
        sound, "note", "mode", "not stored as RGB, but converted to it", lambda probe: probe.mode not in ("RGB", "")
    )
    yield from _about(sound, "warning", "one_colour", "coming out as one colour", lambda probe: probe.flat)
    yield from _deep_grey(sound)
    yield from _about(sound, "note", "rotated", "turned by EXIF data, which is applied", lambda probe: probe.rotated)
    yield from _about(sound, "note", "animated", "with several frames; the first counts", lambda probe: probe.animated)


def _deep_grey(images: Sequence[_Image]) -> Iterator[Finding]:
    """Say how grey images of more than 8 bits were read, most of them first."""
    ways = Counter(image.probe.grey for image in images if image.probe.grey).most_common()
    words = ", ".join(way if len(ways) == 1 else f"{count:,} {way}" for way, count in ways)
    yield from _about(
        images, "note", "deep_grey", f"of grey in more than 8 bits, read {words}", lambda probe: bool(probe.grey)
    )


def _about(
    images: Sequence[_Image], severity: str, kind: str, words: str, applies: Callable[[ImageProbe], bool]
) -> Iterator[Finding]:
    found = [image for image in images if applies(image.probe)]
    if found:
        reasons = {image.probe.reason for image in found}
        reason = f" ({reasons.pop()})" if len(reasons) == 1 and reasons != {""} else ""
        files = tuple(image.name for image in found)
        yield Finding(severity, kind, f"{count_of(len(found), 'image')} {words}{reason}", files)


def _duplicate_findings(images: Sequence[_Image]) -> Iterator[Finding]:
    equal = equal_groups([image.probe.content for image in images])
    conflicts = [group for group in equal if _differ(images, group, "label")]
    yield from _grouped(images, conflicts, "error", "conflict", "equal images under different labels")
    # A conflict within one split is told already; one between splits is a leak as well.
    others = [group for group in equal if not _differ(images, group, "label") or _differ(images, group, "split")]
    yield from _by_place(images, others, ("error", "warning"), ("leak", "duplicate"), "equal images")
    first = {group[0] for group in equal}
    later = {row for group in equal for row in group} - first
    alone = [image for row, image in enumerate(images) if row not in later]
    near = near_groups([image.probe.shape for image in alone], [image.probe.colour for image in alone])
    yield from _by_place(
        alone, near, ("warning", "note"), ("near_leak", "near_duplicate"), "images that are nearly the same"
    )


def _by_place(
    images: Sequence[_Image], groups: list[list[int]], severities: tuple[str, str], kinds: tuple[str, str], words: str
) -> Iterator[Finding]:
    """One finding for what is in several splits, a leak, and one for what is in one split alone."""
    across = [group for group in groups if _differ(images, group, "split")]
    within = [group for group in groups if not _differ(images, group, "split")]
    yield from _grouped(images, across, severities[0], kinds[0], f"{words} in more than one split")
    yield from _grouped(images, within, severities[1], kinds[1], f"{words} within one split")


def _grouped(
    images: Sequence[_Image], groups: list[list[int]], severity: str, kind: str, words: str
) -> Iterator[Finding]:
    if groups:
        named = tuple(tuple(images[row].name for row in group) for group in groups)
        files = tuple(name for group in named for name in group)
        count = f"{len(groups):,} group{'s' if len(groups) > 1 else ''}"
        yield Finding(severity, kind, f"{count} of {words}, {len(files):,} images in all", files, named)


def _unordered(task: Task, label: Label | None) -> Label | None:
    """Return a label that is the same in whatever order several classes were written."""
    return label if label is None else frozenset(task.parts(label)) or label


def _differ(images: Sequence[_Image], group: list[int], what: str) -> bool:
    return len({getattr(images[row], what) for row in group}) > 1


def _equally_long(parts: Sequence[Part]) -> Iterator[tuple[Part, int, bytes]]:
    """Yield the digest of each file that is as long as another one; only such files can be equal."""
    lengths = [(part, row, length) for part in parts for row, length in enumerate(_lengths(part.images))]
    counts = Counter(length for _, _, length in lengths)
    read = 0
    for part, row, length in lengths:
        if length and counts[length] > 1 and read + length <= QUICK_BYTES:
            read += length
            content = _content(part.images, row)
            if content is not None:
                yield part, row, hashlib.blake2b(content, digest_size=16).digest()


def _lengths(images: ImageSet) -> Iterator[int]:
    """Bytes of each image; 0 for a missing file."""
    for value in images.values():
        if value["bytes"] is not None:
            yield len(value["bytes"])
        else:
            try:
                yield os.stat(value["path"]).st_size
            except OSError:
                yield 0


def _content(images: ImageSet, row: int) -> bytes | None:
    value = images.dataset[row][IMAGE_COLUMN]
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    try:
        with open(value["path"], "rb") as stream:
            return stream.read()
    except OSError:
        return None


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "")
    return f"{count_of(len(names), 'class', 'classes')} ({shown})"


def deep_grey_share(images: ImageSet) -> float:
    """Return which share, 0 to 1, of at most 2,000 images is grey of more than 8 bits, by their headers."""
    probes = list(probe_images(images, range(0, len(images), _step(len(images))), decode=False))
    return sum(probe.mode.startswith(DEEP_MODES) for probe in probes) / max(len(probes), 1)


SHOWN_FILES = 3  # per finding in the table
QUICK_LINES = 3  # before training


def check_before_training(sets: ImageSets) -> str:
    """Return the errors and warnings of the quick check in a few lines; empty where there are none."""
    findings = [finding for finding in quick_check(parts_of(sets)) if finding.severity != "note"]
    lines = []
    for finding in findings[:QUICK_LINES]:
        example = f", for example {joined_files(finding.groups[0])}" if finding.groups else ""
        example = example or (f", for example {finding.files[0]}" if finding.files else "")
        lines.append(f"Check: {finding.severity}: {finding.what}{example}")
    if len(findings) > QUICK_LINES:
        lines.append(f"Check: {len(findings) - QUICK_LINES} more findings; hfft check shows all")
    return "\n".join(lines)


def joined_files(group: Sequence[str]) -> str:
    """Return the first files of a group that are equal, and how many more there are."""
    more = len(group) - SHOWN_FILES
    return " = ".join(group[:SHOWN_FILES]) + (f" and {more:,} more" if more > 0 else "")
