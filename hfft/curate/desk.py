"""The label desk: labels that all other images contradict, and duplicate, odd, blurred, dark or blank images."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.arguments import DataArguments, FeatureArguments, LabelsArguments
from hfft.bars import unsaid
from hfft.curate.encoder import Encoder, load_base, load_encoder
from hfft.curate.features import boundary_part, read_features
from hfft.curate.gather import Gathered, gather, refuse_existing
from hfft.curate.neighbours import far_from_all, nearest
from hfft.curate.noise import Opinion, Rows, cross_validated, opinion_of_others, trusted_rows
from hfft.curate.tone import blurred, dark, uniform
from hfft.data.duplicates import equal_groups, near_groups
from hfft.data.layout import counted
from hfft.data.probe import ImageProbe, probe_images
from hfft.errors import ArgumentError, DataError
from hfft.files import cannot_write, write_whole
from hfft.parsing import Place, parse_keywords, place_of
from hfft.report.terminal import aligned, tail
from hfft.surroundings import undisturbed
from hfft.trust.known import unit_rows
from hfft.wording import count_of, images_of

SHOWN = 20
"""Suspect labels in the table."""
SHOWN_OTHERS = 3
"""Images of each other kind in the table."""
COLUMNS = ("image", "split", "finding", "label", "suggestion", "confidence", "nearest", "action", "new_label")
"""Of the CSV; people fill in the last two."""
KINDS = {
    "label": "suspect labels",
    "conflict": "that are equal or nearly so, under several labels",
    "duplicate": "that are equal or nearly so",
    "outlier": "far from all other images",
    "blurred": "blurred",
    "dark": "dark",
    "uniform": "nearly uniform",
    "unreadable": "that cannot be read",
}
"""What is looked for, in the order in which it is shown."""

_NEIGHBOURS = 3  # that are shown beside a suspect
_WIDEST = 44  # characters of a file's name in the table

Progress = Callable[[Iterable[ImageProbe], int], Iterable[ImageProbe]]


@dataclass(frozen=True)
class Near:
    """A similar image: its name, its label (None where it has none), and the cosine of both features."""

    image: str
    label: str | None
    similarity: float


@dataclass(frozen=True)
class Suspect:
    """One image that somebody should look at.

    Args:
        finding: a key of `KINDS`.
        image: its name within its split.
        split: where it is.
        label: as it is written; None where it has none.
        suggestion: of a suspect label, the one that the other images speak for; empty for other findings.
        confidence: probability of the suggestion, 0 to 1.
        nearest: the images that are most like it.
        reason: why, in words; empty for suspect labels.
    """

    finding: str
    image: str
    split: str
    label: str | None
    suggestion: str = ""
    confidence: float = 0.0
    nearest: tuple[Near, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Desk:
    """What was found in a set of images.

    Args:
        data: the images, by name.
        model: whose features were used.
        images: how many each split has.
        checked: how many labels were checked.
        notes: what the data were taken for, and what was left out.
        suspects: in the order of `KINDS`; suspect labels with the worst first.
    """

    data: str
    model: str
    images: dict[str, int]
    checked: int
    notes: tuple[str, ...]
    suspects: tuple[Suspect, ...]

    def __repr__(self) -> str:
        """Return a line; `print` draws the table."""
        found = Counter(suspect.finding for suspect in self.suspects)
        kinds = "".join(f", {found[kind]:,} {kind}" for kind in KINDS if found[kind])
        return f"Desk({self.data!r}, {images_of(self.images)}{kinds})"

    def __str__(self) -> str:
        return desk_table(self)

    def of_kind(self, finding: str) -> list[Suspect]:
        """Return the findings of one kind."""
        return [suspect for suspect in self.suspects if suspect.finding == finding]


@dataclass(frozen=True)
class _Image:
    """An image of any split that can be read."""

    split: str
    file: str
    label: str | None
    probe: ImageProbe

    @property
    def known_as(self) -> dict[str, Any]:
        return {"image": self.file, "split": self.split, "label": self.label}


def label_desk(
    use: FeatureArguments,
    data: DataArguments,
    options: LabelsArguments,
    place: str | None,
    say: Callable[[str], None],
    progress: Progress | None = None,
) -> Desk:
    """Look at every image and its label, and write the findings where ``options.output`` says.

    Labels of test images are asked about, but nothing is learned from them.

    Args:
        use: the model; where it names none, the base of the run, or the embedded model.
        data: which images, where `place` does not say.
        options: where the findings go.
        place: a data set, or the folder of a finished run, whose images are looked at.
        say: prints a line for the user.
        progress: wraps the probes as they come, given how many there will be; ``tqdm`` for instance.

    Raises:
        HfftError: images, labels, model or file are not usable, and how to mend it.
    """
    target = refuse_existing(options.output)
    gathered = gather(data, place)
    desk = examine(gathered, lambda: _encoder(use, gathered), options.seed, say, progress)
    if target is not None:
        write_findings(desk, target)
    return desk


def examine(
    gathered: Gathered,
    load: Callable[[], Encoder],
    seed: int,
    say: Callable[[str], None],
    progress: Progress | None = None,
) -> Desk:
    """Look at every image that was gathered, and its label.

    Args:
        gathered: the images.
        load: loads the model, once the labels are known to be of use.
        seed: of the folds.
        say: prints a line for the user.
        progress: as of `label_desk`.

    Raises:
        HfftError: images, labels or model are not usable, and how to mend it.
    """
    sound, images, unreadable = _probed(gathered, progress)
    labels = _numbered(images, gathered.name)
    encoder = load()
    views = _views(encoder, sound, say)
    return Desk(
        gathered.name,
        encoder.name,
        gathered.counts,
        int((labels.numbers >= 0).sum()),
        (*gathered.notes, *labels.notes),
        (*_label_findings(images, labels, views, seed), *_image_findings(images, views[0]), *unreadable),
    )


@undisturbed()
def labels_with(place: Place | None = None, /, *, say: Callable[[str], None] | None = print, **options: Any) -> Desk:
    """Find labels that are probably wrong, and duplicate, odd or blurred images; this is ``hfft.labels``.

    Args:
        place: a data set, or the folder of a finished run; left out, the options name the images.
        say: prints a line for the user; None for silence.
        options: the flags of ``hfft labels`` under their own names, for example ``dataset_name``, ``model`` and
            ``output``; but for ``apply``, which is the command line's.

    Returns:
        All findings, suspect labels with the worst first: ``desk.suspects``, ``desk.of_kind("label")``.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: images, labels, model or file are not usable, and how to mend it.

    Example:
        >>> desk = hfft.labels(dataset_name="photos/train", model="outputs/photos", say=lambda line: None)
        >>> desk.images, desk.checked, desk.of_kind("unreadable")
        ({'train': 12}, 12, [])
    """
    use, data, wanted = parse_keywords((FeatureArguments, DataArguments, LabelsArguments), options, "hfft.labels")
    if wanted.apply is not None:
        raise ArgumentError("hfft.labels finds; decisions are applied by hfft labels DATA --apply FIXES.csv")
    return label_desk(use, data, wanted, place_of(place, "hfft.labels"), say or unsaid)


def _encoder(use: FeatureArguments, gathered: Gathered) -> Encoder:
    """The model that is asked for; else that which the run began with, since what a run trained has seen the labels."""
    if use.model is None and gathered.record is not None:
        return load_base(gathered.record, use.trust_remote_code)
    return load_encoder(use)


def _views(encoder: Encoder, sound: Gathered, say: Callable[[str], None]) -> list[NDArray[np.float32]]:
    """Return features of all images: what the head reads, which tells photos apart, and what tells other pictures."""
    parts = [None, *([part] if (part := boundary_part(encoder)) else [])]
    found = read_features(encoder, sound.sets, parts, say)
    return [np.concatenate([found[split].views[place] for split in sound.splits]) for place in range(len(parts))]


def _probed(gathered: Gathered, progress: Progress | None) -> tuple[Gathered, list[_Image], list[Suspect]]:
    """Probe every image; return those that can be read, in a set and one by one, and findings about the others.

    Raises:
        DataError: not one can be read.
    """
    sets, rows = gathered.sets, dict[str, list[int]]()
    probes = (probe for images in sets.values() for probe in probe_images(images))
    seen = iter(probes if progress is None else progress(probes, sum(map(len, sets.values()))))
    sound, unreadable = list[_Image](), list[Suspect]()
    for split, images in sets.items():
        rows[split] = []
        for file, label, probe in zip(images.files, gathered.splits[split].names, seen, strict=False):
            if probe.problem:
                unreadable.append(Suspect("unreadable", file, split, label, reason=probe.reason))
            else:
                rows[split].append(probe.row)
                sound.append(_Image(split, file, label, probe))
    for _ in seen:  # lets a progress bar come to its end
        pass
    if not sound:
        raise DataError(f"{gathered.name}: not one of its images can be read; see hfft check")
    return gathered.select(rows), sound, unreadable


# Labels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Labels:
    """The labels of all images as numbers: -1 where there is none, or too few images to learn what it means."""

    numbers: Rows
    classes: list[str]
    learning: NDArray[np.bool_]
    notes: list[str]


def _numbered(images: Sequence[_Image], name: str) -> _Labels:
    """Number the labels of classes with two images or more to learn from, which test images are not.

    Raises:
        DataError: there are no two such classes.
    """
    learning = np.array([image.split != "test" for image in images])
    counts = Counter(image.label for image, learns in zip(images, learning, strict=True) if learns)
    classes = sorted(label for label, count in counts.items() if label is not None and count > 1)
    if len(classes) < 2:
        raise DataError(f"{name}: labels are checked by comparison: two classes of two images each are needed")
    places = {label: number for number, label in enumerate(classes)}
    numbers = np.array([-1 if image.label is None else places.get(image.label, -1) for image in images], np.int64)
    few = sorted({image.label for image in images if image.label is not None} - {*classes})
    notes = []
    if few:
        notes.append(f"Labels not checked, too few images to learn from: {counted(few, 'class', 'classes')}")
    if without := sum(image.label is None for image in images):
        notes.append(f"Labels not checked: {count_of(without, 'image has', 'images have')} none")
    return _Labels(numbers, classes, learning, notes)


def _label_findings(
    images: Sequence[_Image], labels: _Labels, views: Sequence[NDArray[np.float32]], seed: int
) -> list[Suspect]:
    """Return the suspect labels, the worst first, each with the images that are nearest by the first view."""
    values, told = [view.astype(np.float64) for view in views], labels.numbers >= 0
    learned, asked = np.flatnonzero(labels.learning & told), np.flatnonzero(~labels.learning & told)
    opinion = cross_validated([view[learned] for view in values], labels.numbers[learned], seed)
    opinions = [(learned, opinion)]
    if len(asked):
        trusted = learned[trusted_rows(opinion)]
        opinions.append((asked, opinion_of_others(values, labels.numbers, trusted, asked, seed)))
    ranked = _ranked(opinions)
    near = nearest(unit_rows(views[0]), np.array([row for row, *_ in ranked], np.int64), _NEIGHBOURS)
    return [
        Suspect(
            "label",
            **images[row].known_as,
            suggestion=labels.classes[suggestion],
            confidence=confidence,
            nearest=tuple(
                Near(images[other].file, images[other].label, float(cosine))
                for other, cosine in zip(others, cosines, strict=True)
            ),
        )
        for (row, _, suggestion, confidence), others, cosines in zip(ranked, *near, strict=True)
    ]


def _ranked(opinions: Sequence[tuple[Rows, Opinion]]) -> list[tuple[int, float, int, float]]:
    """Return row, score, suggestion and confidence of each suspect, the worst first."""
    found = []
    for rows, opinion in opinions:
        scores, suggestions, confidences = opinion.scores, opinion.suggestions, opinion.confidences
        found += [
            (int(rows[place]), float(scores[place]), int(suggestions[place]), float(confidences[place]))
            for place in opinion.suspects()
        ]
    return sorted(found, key=lambda each: each[1])


# Images -----------------------------------------------------------------------------------------------


def _image_findings(images: Sequence[_Image], features: NDArray[np.float32]) -> Iterator[Suspect]:
    yield from _duplicates(images)
    rows, distances = far_from_all(unit_rows(features))
    usual = float(np.median(distances))
    for row in rows:
        reason = f"{distances[row] / usual:.1f} times the usual distance from its neighbours"
        yield Suspect("outlier", **images[row].known_as, reason=reason)
    probes = [image.probe for image in images]
    for finding, measured in (("blurred", blurred(probes)), ("dark", dark(probes)), ("uniform", uniform(probes))):
        for row, reason in measured:
            yield Suspect(finding, **images[row].known_as, reason=reason)


def _duplicates(images: Sequence[_Image]) -> list[Suspect]:
    """Return the images of each group of equal or nearly equal ones, groups of several labels first."""
    equal = equal_groups([image.probe.content for image in images])
    near = near_groups([image.probe.shape for image in images], [image.probe.colour for image in images])
    joined = {row for group in near for row in group}
    groups = near + [group for group in equal if not joined.issuperset(group)]
    found = []
    for group in groups:
        labels = {images[row].label for row in group} - {None}
        for row in group:
            others = [images[other] for other in group if other != row][:_NEIGHBOURS]
            nearest = tuple(Near(other.file, other.label, 1.0) for other in others)
            same = all(images[other].probe.content == images[row].probe.content for other in group)
            reason = "the same picture" if same else "nearly the same picture"
            finding = "conflict" if len(labels) > 1 else "duplicate"
            found.append(Suspect(finding, **images[row].known_as, nearest=nearest, reason=reason))
    return sorted(found, key=lambda suspect: suspect.finding != "conflict")


# Shown and written ------------------------------------------------------------------------------------


def desk_json(desk: Desk) -> str:
    """Return all findings as JSON."""
    return json.dumps(asdict(desk), indent=2, ensure_ascii=False)


def desk_csv(desk: Desk) -> str:
    """Return all findings as CSV, with empty columns for what is to be done about each."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(finding_row(each) for each in desk.suspects)
    return stream.getvalue()


def finding_row(each: Suspect, action: str = "", new_label: str = "") -> list[str]:
    """Return a finding as a row of `COLUMNS`, with what is to be done about it."""
    near = " | ".join(f"{one.image} ({one.label})" for one in each.nearest)
    confidence = f"{each.confidence:.4f}" if each.suggestion else ""
    about = [each.image, each.split, each.finding, each.label or "", each.suggestion, confidence, near]
    return [*about, action, new_label]


def write_findings(desk: Desk, target: Path) -> None:
    """Write all findings as CSV or JSON, as the file's ending says.

    Raises:
        OutputError: the file cannot be written.
    """
    text = desk_csv(desk) if target.suffix.lower() == ".csv" else desk_json(desk) + "\n"
    try:
        write_whole(target, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise cannot_write(target, error) from error


def desk_table(desk: Desk) -> str:
    """Return the findings for people: the worst labels, and a few images of each other kind."""
    lines = [f"{desk.data}: {images_of(desk.images)}; features of {desk.model}", *desk.notes]
    suspects = desk.of_kind("label")
    lines.append(
        f"{len(suspects):,} of {count_of(desk.checked, 'label')} {'is' if len(suspects) == 1 else 'are'} suspect"
        f"{':' if suspects else ''}"
    )
    lines += _label_table(suspects[:SHOWN])
    if len(suspects) > SHOWN:
        lines.append(f"  and {len(suspects) - SHOWN:,} more; --output FILE.csv or --json names all")
    for finding, words in list(KINDS.items())[1:]:
        if found := desk.of_kind(finding):
            shown = ", ".join(_name(each) for each in found[:SHOWN_OTHERS]) + ", ..." * (len(found) > SHOWN_OTHERS)
            lines.append(f"{count_of(len(found), 'image')} {words}: {shown}")
    return "\n".join(lines)


def _label_table(suspects: Sequence[Suspect]) -> list[str]:
    if not suspects:
        return []
    rows = [
        (
            tail(_name(each), _WIDEST),
            str(each.label),
            each.suggestion,
            f"{each.confidence:.2f}",
            ", ".join(f"{tail(near.image, _WIDEST)} ({near.label})" for near in each.nearest[:2]),
        )
        for each in suspects
    ]
    head = ("image", "label", "suggestion", "confidence", "nearest images")
    return [f"  {line}" for line in aligned(head, rows, words=(0, 1, 2, 4))]


def _name(each: Suspect) -> str:
    return f"{each.split}: {each.image}"
