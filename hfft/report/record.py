"""The record of a run, ``hfft.json``: everything that a reader needs to judge it and to repeat it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hfft.errors import HfftError
from hfft.files import cannot_write, write_whole
from hfft.metrics import ClassRow, PairedDifference, SplitMetrics
from hfft.report.typed_json import build, plain
from hfft.tasks.contract import Task
from hfft.tasks.registry import task_as
from hfft.trust.calibration import Calibration
from hfft.trust.known import KnownRecord
from hfft.trust.selective import Selective

CROSSED = "cross-validation"
"""What the metrics are called that models reach on training images which they had not seen."""

_IMAGES = ("dataset_name", "train_dir", "validation_dir", "test_dir")
_READ = (*_IMAGES, "model_name_or_path", "config_name", "image_processor_name", "anatomy")
"""Options that name what a run read."""

SOUP = "sweep --soup"
"""The command of a run whose weights are the mean of others', chosen on validation."""


@dataclass
class BaseRecord:
    """The pretrained model that the run began from.

    Args:
        id: Hub id, folder or package.
        revision: commit of the Hub's repository, where there is one.
        sha256: hash of its weights.
        license: as its card or package gives it; None where unknown.
        on_hub: whether `id` is a repository on the Hub, so that a card may link to it.
        channels: that it reads: 3 for red, green and blue, 1 for grey.
        own_code: the file beside the checkpoint that holds the model's code; empty where transformers has it.
    """

    id: str
    revision: str | None = None
    sha256: str | None = None
    license: str | None = None
    on_hub: bool = False
    channels: int = 3
    own_code: str = ""


@dataclass
class DataRecord:
    """The images and their labels.

    Args:
        name: Hub id, folder or package.
        labels: the classes' names, by label number.
        counts: images per split (``train``, ``validation``, ``test``).
        fingerprints: a hash of each split's images.
        on_hub: whether `name` is a data set on the Hub, so that a card may link to it.
        skipped: files that could not be read and were left out.
        notes: what the data set was taken for, what was left out, and what became of the base's head.
        sha256: by split, a hash over the content and the label of every image; none of a split that lacks a file.
        deep_grey: share, 0 to 1, of the training images that are grey of more than 8 bits.
    """

    name: str
    labels: list[str]
    counts: dict[str, int]
    fingerprints: dict[str, str] = field(default_factory=dict)
    on_hub: bool = False
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)
    deep_grey: float = 0.0


@dataclass
class PartRecord:
    """A part of the anatomy: its parameters (elements), and how many of them were trained in any phase."""

    name: str
    parameters: int
    trained: int


@dataclass
class PhaseRecord:
    """One stretch of training under one freeze.

    Args:
        name: what the trace calls it.
        epochs: passes over the training images.
        trainable_tensors: how many parameter tensors learned.
        trainable_parameters: how many elements they have.
        total_parameters: elements of the whole model.
        boundary: the earliest module that holds a trainable parameter; None where nothing is frozen before it.
        learning_rates: peak learning rate by part.
    """

    name: str
    epochs: float
    trainable_tensors: int
    trainable_parameters: int
    total_parameters: int
    boundary: str | None = None
    learning_rates: dict[str, float] = field(default_factory=dict)


@dataclass
class CacheRecord:
    """The activation cache: where it lay, its size in bytes, what it spared, and why it was off.

    Beside them what computed the frozen prefix, and how far its activations were from PyTorch's on real images.
    """

    mode: str = "off"
    bytes: int = 0
    hits: int = 0
    reason_off: str | None = None
    engine: str = "torch"
    engine_difference: float = 0.0
    engine_tolerance: float = 0.0


@dataclass(frozen=True)
class MistakeRow:
    """An image that was labelled wrongly, and the probability, 0 to 1, of the wrong label."""

    file: str
    label: str
    prediction: str
    probability: float


@dataclass
class FrozenRecord:
    """The proof that frozen means frozen: a hash over all frozen parameters and buffers, before and after."""

    tensors: int
    sha256_before: str
    sha256_after: str

    @property
    def unchanged(self) -> bool:
        """Whether every frozen tensor is bit-identical after training."""
        return self.sha256_before == self.sha256_after


@dataclass(frozen=True)
class MapRecord:
    """How near images of a class are to each other in what the head reads, before training and after it.

    Args:
        train: training images that were compared.
        validation: validation images that were.
        alike_before: validation images whose nearest training image was of their class, before training; None where
            that was not read.
        alike_after: the same after it.
        share_before: of the variance of the training images that the drawn plane has, 0 to 1; None likewise.
        share_after: the same after training.
    """

    train: int
    validation: int
    alike_before: int | None
    alike_after: int
    share_before: float | None
    share_after: float


@dataclass
class ExtensionRecord:
    """How a run came of another one, by more images.

    Args:
        run: name of the folder of the run that was extended.
        classes: names of those that joined.
        added: new images by split.
        epochs: of training from the closed form on; 0 where it was left at that.
        missing: why the images of the run itself were not there; empty where they were.
        images: by split, how many images of the run itself it was measured on.
        before: by split, accuracy on these images before, 0 to 1.
        after: and afterwards.
        differences: between the two.
    """

    run: str
    classes: list[str] = field(default_factory=list)
    added: dict[str, int] = field(default_factory=dict)
    epochs: float = 0.0
    missing: str = ""
    images: dict[str, int] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    differences: dict[str, PairedDifference] = field(default_factory=dict)


@dataclass
class RunRecord:
    """One run of fine-tuning.

    Args:
        hfft_version: of the program that ran.
        created: when this was made, at the end of the run, ISO 8601 with a time zone.
        base: the pretrained model.
        data: images and labels.
        policy: as given, ``last_n:2`` for instance.
        plan: the policy's phases, in order.
        metrics: metrics by split; ``test`` is missing where there was no test split, and `CROSSED` where the training
            was not repeated in folds.
        versions: of Python and of the packages that matter, by name.
        command: the command that ran, ``finetune`` for instance.
        arguments: every option and its value, flat, as a YAML file would hold them.
        anatomy: the fields of `hfft.plugin.contract.Anatomy`.
        parts: the anatomy's parts in order of depth, with parameter counts.
        seed: of everything random.
        processes: how many trained together.
        device: ``cpu``, or the accelerator's name.
        seconds: what was spent, by what it was spent on (``total``, ``wait_for_images``, ``prefix``, ``training``,
            ``baselines``, ``trust``, ``folds``).
        cache: the activation cache.
        per_class: the table of the last split evaluated.
        per_class_split: which split that is.
        best_epoch: the epoch whose weights were handed back, where that was chosen on validation.
        test_evaluations: how often this run looked at the test split; None where that was not counted.
        frozen: the proof that frozen tensors did not change; None where nothing was frozen.
        baselines: by name (``majority``, ``linear_probe``), metrics of the same split as `per_class`.
        differences: by baseline, how much more accurate the result is than it on the same images.
        files: SHA-256 of the weights that were written, by file.
        mistakes: the most confident ones of that split, the most confident first.
        written: names of all files in the run's folder that hfft wrote, itself included; no other is ever deleted.
        identity: by name, what another run must share to count as the same one; empty in older records.
        decisions: what the run decided by its images, a sentence each.
        calibration: the temperature of the model's probabilities, and what it did.
        selective: accuracy where the model is surest, of the same split as `per_class`.
        known: the training images that others are compared with.
        feature_map: the images before and after training; None where they were not drawn.
        task: what the labels mean; see `hfft.tasks`.
        thresholds: of multi_label, probability from which on each label is given, in the order of the labels; of
            label_tree the one from which on a branch is.
        extended: how the run came of another one; None where it did not.
    """

    hfft_version: str
    created: str
    base: BaseRecord
    data: DataRecord
    policy: str
    plan: list[PhaseRecord]
    metrics: dict[str, SplitMetrics]
    versions: dict[str, str] = field(default_factory=dict)
    command: str = "finetune"
    arguments: dict[str, Any] = field(default_factory=dict)
    anatomy: dict[str, Any] = field(default_factory=dict)
    parts: list[PartRecord] = field(default_factory=list)
    seed: int = 0
    processes: int = 1
    device: str = "cpu"
    seconds: dict[str, float] = field(default_factory=dict)
    cache: CacheRecord = field(default_factory=CacheRecord)
    per_class: list[ClassRow] = field(default_factory=list)
    per_class_split: str = "validation"
    best_epoch: float | None = None
    test_evaluations: int | None = None
    frozen: FrozenRecord | None = None
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    differences: dict[str, PairedDifference] = field(default_factory=dict)
    mistakes: list[MistakeRow] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    written: list[str] | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)
    calibration: Calibration = field(default_factory=lambda: Calibration(1.0, 0))
    selective: Selective = field(default_factory=Selective)
    known: KnownRecord = field(default_factory=KnownRecord)
    feature_map: MapRecord | None = None
    task: str = "single_label"
    thresholds: list[float] = field(default_factory=list)
    extended: ExtensionRecord | None = None
    format: Literal[1] = 1

    def leading_metrics(self) -> list[tuple[str, SplitMetrics]]:
        """Return the splits' metrics, those first that nothing was chosen on."""
        order = ("test", CROSSED)
        return sorted(self.metrics.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))

    @property
    def solved(self) -> Task:
        """The task as the run's model solves it."""
        return task_as(self.task, self.calibration.temperature, self.thresholds)

    def summary(self) -> dict[str, Any]:
        """Return what programs are told of a run first."""
        return {
            "policy": self.policy,
            "labels": self.data.labels,
            "images": self.data.counts,
            "metrics": {split: metrics.values for split, metrics in self.metrics.items()},
            "baselines": self.baselines,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "decisions": self.decisions,
        }

    @property
    def adapted(self) -> bool:
        """Whether adapters were trained beside the frozen weights, and folded into them where they are saved."""
        return self.policy.partition(":")[0] == "lora"

    def optimistic(self, split: str) -> bool:
        """Whether the weights were chosen on this very split, so that its metrics flatter them."""
        return split == "validation" and (self.best_epoch is not None or self.command == SOUP)


def write_record(path: str | Path, record: RunRecord) -> None:
    """Write a record as JSON, replacing the file in one step; what is not finite becomes null.

    Raises:
        OutputError: the file cannot be written.
        HfftError: the arguments or the anatomy hold what JSON has no word for.
    """
    target = Path(path)
    try:
        text = json.dumps(plain(asdict(record)), indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(target, f"{text}\n".encode())
    except OSError as error:
        raise cannot_write(target, error) from error
    except (TypeError, ValueError) as error:
        raise HfftError(f"cannot write {target}: {error}") from error


def read_record(path: str | Path) -> RunRecord:
    """Read what `write_record` wrote. Keys that this version does not know are passed over.

    Raises:
        HfftError: the file cannot be read, is not JSON, lacks a key or holds a value of the wrong kind.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HfftError(f"cannot read the record {path}: {error}") from error
    base = data.get("base") if isinstance(data, dict) else None
    if isinstance(base, dict) and "licence" in base:  # what the first records called it
        base.setdefault("license", base["licence"])
    return build(RunRecord, data, str(path))


def read_record_here(path: str | Path) -> RunRecord:
    """Read a record to use what it names: the relative paths of what the run read lead there from here.

    They count from the folder in which the run was started, which its own folder and a relative ``output_dir`` tell.
    What is published is read by `read_record`, with the paths as they were typed.

    Raises:
        HfftError: as of `read_record`.
    """
    record = read_record(path)
    start = _started_in(Path(os.path.abspath(path)).parent, Path(str(record.arguments.get("output_dir"))))
    if start is None or start == Path.cwd():
        return record
    found = {name: start / given for name, given in _relative(record, _READ) if (start / given).exists()}
    named = os.path.relpath if start.drive == Path.cwd().drive else str  # no path leads from C: to D:
    return replace(record, arguments=record.arguments | {name: named(place) for name, place in found.items()})


def lost_images(record: RunRecord) -> str:
    """Say which relative path of a run's images leads nowhere, and where it counts from; nothing where none does."""
    for _, given in _relative(record, _IMAGES):
        if not record.data.on_hub and not Path(given).exists():
            return f"there is no {given} here; relative paths count from the folder in which the run was started"
    return ""


def _started_in(folder: Path, output: Path) -> Path | None:
    """Return the folder from which ``output`` leads to a run's folder; None where that cannot be told."""
    names, above = output.parts, len(folder.parts) - len(output.parts)
    return Path(*folder.parts[:above]) if above > 0 and folder.parts[above:] == names else None


def _relative(record: RunRecord, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        given = record.arguments.get(name)
        if isinstance(given, str) and given and not Path(given).expanduser().is_absolute():
            yield name, given
