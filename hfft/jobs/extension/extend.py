"""The job: find old and new images, extend the head in closed form, train where asked, measure before and after."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.arguments import RUN_ARGUMENTS, DataArguments, ExtendArguments
from hfft.arguments.training import Epochs
from hfft.bars import silenced, unsaid
from hfft.errors import ArgumentError, DataError
from hfft.jobs.advice.crossed import CrossPlan
from hfft.jobs.extension.head import extend_head, take_weights
from hfft.jobs.extension.images import Joined, join, write_list
from hfft.jobs.finetune import check_output_dir, check_processes, finish, made_output_dir, set_up_on
from hfft.jobs.inputs import Shared
from hfft.jobs.reproduce import record_flags
from hfft.jobs.results import weights_kept, write_results
from hfft.jobs.run import Run, judged
from hfft.jobs.trust import Trust
from hfft.machine import keep_freed_memory, refuse_launcher
from hfft.metrics import counted, described, paired_difference
from hfft.models.adapters import adapted
from hfft.output_folder import CLASSES, IMAGES, KNOWN, RECORD, locked
from hfft.parsing import Place, parse, parse_keywords
from hfft.report.record import ExtensionRecord, RunRecord, lost_images, read_record_here
from hfft.report.terminal import in_a_line
from hfft.surroundings import undisturbed
from hfft.tasks.contract import needs_one_label
from hfft.training.phases import ReadyPhase, make_ready, make_trainer, to_device, train_phases, untrained
from hfft.training.progress import Progress
from hfft.training.setup import Settings, Setup
from hfft.training.trainer import FreezeTrainer
from hfft.trust.classes import ClassStatistics, Kept, read_kept
from hfft.trust.known import read_known, united

Right = dict[str, NDArray[np.bool_]]
"""By split, which of the run's own images are labelled rightly."""


@undisturbed()
def extend_with(run: Place, *, say: Callable[[str], None] | None = print, **options: Any) -> Run:
    """Add images, or a new class, to a finished run; this is ``hfft.extend``.

    Args:
        run: its folder.
        say: prints a line for the user; None for silence.
        options: the flags of ``hfft extend`` under their own names, for example ``train_dir`` and ``output_dir``.

    Returns:
        The extended run, as `hfft.finetune` returns one; ``run.extended`` says what became of the old classes.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: run, images or folders are not usable, and how to mend it.

    Example:
        >>> more = hfft.extend(
        ...     "outputs/photos", train_dir="photos/test", output_dir="outputs/more", say=lambda line: None
        ... )
        >>> more.extended.added["train"] > 0, sorted(more.extended.before)
        (True, ['validation'])
    """
    (wanted,) = parse_keywords((ExtendArguments,), options, "hfft.extend")
    return extend(run, wanted, say or unsaid)


def extend(run: Place, options: ExtendArguments, say: Callable[[str], None] = print) -> Run:
    """Add images, or a new class, to a finished run, and write the extended run to a folder of its own.

    Args:
        run: its folder.
        options: which images, and whether to train.
        say: prints a line for the user.

    Raises:
        ArgumentError: it is not a run, or its images are needed and gone.
        HfftError: run, images or folders are not usable, and how to mend it.
    """
    refuse_launcher("hfft extend")
    folder = Path(run).expanduser() if isinstance(run, str | os.PathLike) else None
    if folder is None or not (folder / RECORD).is_file():
        raise ArgumentError(f"{shorten(str(run), 200)} is not the folder of a run: it holds no {RECORD}")
    folder = folder if folder.name not in ("", "..") else folder.resolve()  # whose name the results' folder takes
    record = read_record_here(folder / RECORD)
    needs_one_label(record.solved, "hfft extend")
    if not (folder / CLASSES).is_file():
        why = record.known.missing or "train it again with this hfft"
        raise ArgumentError(f"{folder} holds no {CLASSES}, by which images join a run; {why}")
    settings = _settings(record, options, folder)
    check_processes(settings.training)
    keep_freed_memory()
    output = Path(settings.training.output_dir or "")
    if output.resolve() == folder.resolve():
        raise ArgumentError(f"--output_dir {output} is the run itself; choose another folder")
    with made_output_dir(settings), locked(output), silenced(settings.training.disable_tqdm):
        check_output_dir(settings.training, say)
        return _extend(folder, record, settings, options, say)


def _extend(
    folder: Path, record: RunRecord, settings: Settings, options: ExtendArguments, say: Callable[[str], None]
) -> Run:
    began, kept, output = time.perf_counter(), read_kept(folder / CLASSES), Path(settings.training.output_dir or "")
    joined = _joined(record, settings, options, kept, say)
    setup = _set_up(settings, joined, options, record)
    if adapted(setup.model):
        raise ArgumentError(f"{folder} was trained with adapters, and hfft extend does not go on with those")
    take_weights(setup, folder)
    to_device(setup)
    ready = make_ready(setup, setup.plan.phases, say)
    trainer, progress = _trainer(setup, ready[0]), Progress()
    before = _right(trainer, joined, len(record.data.labels))
    statistics = extend_head(setup, ready[0].prepared, joined, kept.statistics)
    extended = _record(folder.resolve().name, joined, options.num_train_epochs)
    progress.decisions += _what_joined(extended, joined)
    with weights_kept(setup, progress):
        if options.num_train_epochs:
            trainer.release()
            trainer = train_phases(setup, progress, say, prepared=ready)
            progress.identity = {}
        else:
            progress.add(untrained(setup, ready[0]), [])
            trainer.state = progress.continuous(trainer.state, 0)
        after = _right(trainer, joined, len(setup.sets.labels))
        extended = _measured(extended, before, after)
        progress.decisions += _comparison(extended)
        run = finish(setup, progress, trainer, began, CrossPlan())
        if joined.gone:
            run = replace(run, trust=_without_old(run.trust, record, folder, statistics, kept))
        run = replace(run, setup=_as_recorded(setup, record, output), extended=extended, command="extend")
        run = replace(run, beside=(lambda place: write_list(joined.sets, place / IMAGES),))
        for line in progress.decisions:
            say(line)
        say(write_results(run))
    return replace(run, beside=())  # as it is written, and a pickle holds no function without a name


def _settings(record: RunRecord, options: ExtendArguments, folder: Path) -> Settings:
    """Return the options of the run, with those of the extension."""
    settings = Settings(*parse(RUN_ARGUMENTS, record_flags(record, options.trust_remote_code), "extend", ""))
    training = copy.copy(settings.training)
    training.output_dir = options.output_dir or f"{folder}-extended"
    training.overwrite_output_dir = options.overwrite_output_dir
    training.learning_rate = options.learning_rate or training.learning_rate
    training.baselines, training.calibration_folds, training.save_strategy = "none", 0, "no"
    training.max_steps, training.push_to_hub = -1, False
    return replace(settings, training=training)


def _joined(
    record: RunRecord, settings: Settings, options: ExtendArguments, kept: Kept, say: Callable[[str], None]
) -> Joined:
    names = ("train_dir", "validation_dir", "dataset_name", "image_column_name", "label_column_name")
    run = settings.data
    more = DataArguments(
        **{name: getattr(options, name) for name in names},
        train_val_split=run.train_val_split,
        group_column=run.group_column,
        group_pattern=run.group_pattern,
        on_bad_image=run.on_bad_image,
    )
    joined = join(run, more, record.data.labels, kept, settings.training.seed, say)
    if joined.gone and (lost := lost_images(record)):
        joined = replace(joined, gone=lost)
    if joined.gone and options.num_train_epochs:
        raise DataError(
            f"a training needs the images of the run as well: {joined.gone}; without --num_train_epochs new classes "
            "join by the statistics that the run kept"
        )
    if joined.gone:
        say(f"The run's own images are not here, so old classes are not measured: {joined.gone}.")
    return joined


def _set_up(settings: Settings, joined: Joined, options: ExtendArguments, record: RunRecord) -> Setup:
    """Set up the run's last phase alone: what it trains and reads is what joins."""
    policy = replace(settings.policy, head_init="random", head_lr_scale=1.0)  # the head is not new
    training = copy.copy(settings.training)
    training.num_train_epochs = _planned(record)  # since these decide which phases a policy has
    setup = set_up_on(replace(settings, policy=policy, training=training), joined.sets, Shared(keep=False))
    name, epochs = record.plan[-1].name, float(options.num_train_epochs or 1)
    last = next((phase for phase in setup.plan.phases if phase.name == name), None)
    if last is None:
        raise ArgumentError(
            f"the run ended with the phase {name}, which {setup.plan.policy} does not have in "
            f"{training.num_train_epochs:g} epochs; train on all images with hfft finetune"
        )
    training.num_train_epochs = epochs
    known = replace(policy, head_init="pretrained")  # its evaluation is epoch 0
    given = replace(setup.settings, policy=known, training=training)
    return replace(setup, settings=given, plan=replace(setup.plan, phases=(replace(last, epochs=epochs),)))


def _planned(record: RunRecord) -> float:
    """Return how many epochs a run was to make in all its phases; where that was left to it, those that it made."""
    given = record.arguments.get("num_train_epochs", "auto")
    made = math.ceil(sum(phase.epochs for phase in record.plan))
    return float(given) if isinstance(given, int | float) else float(max(made, len(record.plan)))


def _as_recorded(setup: Setup, record: RunRecord, output: Path) -> Setup:
    """Return the setup with the options that train the same recipe on all images."""
    settings = setup.settings
    data = replace(
        settings.data,
        train_dir=None,
        validation_dir=None,
        test_dir=None,
        max_train_samples=None,
        max_eval_samples=None,
        dataset_name=str(output / IMAGES),
        dataset_config_name=None,
        image_column_name=None,
        label_column_name=None,
        streaming=False,
        group_pattern=None,
        group_column="group" if setup.sets.train.groups is not None else None,
    )
    training = copy.copy(settings.training)
    for name in ("num_train_epochs", "learning_rate", "baselines", "calibration_folds", "max_steps"):
        setattr(training, name, record.arguments.get(name, getattr(training, name)))
    training.num_train_epochs = Epochs(training.num_train_epochs)
    options = {name: record.arguments[name] for name in ("head_init", "head_lr_scale") if name in record.arguments}
    policy = replace(settings.policy, **options)
    return replace(setup, settings=replace(settings, data=data, training=training, policy=policy))


def _trainer(setup: Setup, ready: ReadyPhase) -> FreezeTrainer:
    return make_trainer(setup, Progress(), ready, setup.settings.training.learning_rate)


def _right(trainer: FreezeTrainer, joined: Joined, classes: int) -> Right:
    """Return which of the run's own images a model labels rightly among its first classes."""
    found: Right = {}
    datasets: dict[str, Any] = {"validation": trainer.eval_dataset, "test": trainer.test_dataset}
    for split, dataset in datasets.items():
        count = joined.old[split]
        if count and dataset is not None:
            logits, labels = judged(trainer.predict(dataset))
            found[split] = logits[:count, :classes].argmax(axis=1) == labels[:count]
    return found


def _record(run: str, joined: Joined, epochs: float) -> ExtensionRecord:
    counts = {split: len(images) - joined.old[split] for split in joined.old if (images := joined.split(split))}
    missing = "they were not found" if joined.gone else ""  # without paths, since records are published
    return ExtensionRecord(run, list(joined.new), counts, epochs, missing)


def _measured(extended: ExtensionRecord, before: Right, after: Right) -> ExtensionRecord:
    return replace(
        extended,
        images={split: len(right) for split, right in before.items()},
        before={split: float(right.mean()) for split, right in before.items()},
        after={split: float(right.mean()) for split, right in after.items()},
        differences={split: paired_difference(after[split], before[split]) for split in before},
    )


def _what_joined(extended: ExtensionRecord, joined: Joined) -> Iterator[str]:
    count = extended.added["train"]
    held = f" and {extra:,} to measure with" if (extra := extended.added.get("validation")) else ""
    classes = f"; new classes: {in_a_line(', '.join(joined.new))}" if joined.new else ""
    yield f"Extended {extended.run} by {count:,} training images{held}{classes}."
    if not extended.epochs:
        yield (
            "The head has its rows for new classes in closed form" if joined.new else "The head is as it was"
        ) + ": nothing was trained, which --num_train_epochs N does."


def _comparison(extended: ExtensionRecord) -> Iterator[str]:
    for split, images in extended.images.items():
        was, now = (counted(each[split], images) for each in (extended.before, extended.after))
        yield f"The run's own {split} images: {was} before, {now} now, {described(extended.differences[split])}."


def _without_old(trust: Trust, record: RunRecord, folder: Path, statistics: ClassStatistics, kept: Kept) -> Trust:
    """Return what is known of old and new images where the old ones are gone: what the run kept, and what joined."""
    assert trust.kept is not None
    splits: Mapping[str, Any] = {**kept.contents, **trust.kept.contents}
    contents = {name: _both(kept.contents, trust.kept.contents, name) for name in splits}
    labels = {name: _both(kept.labels, trust.kept.labels, name) for name in splits}
    trust = replace(
        trust,
        task=record.solved,
        kept=Kept(statistics, contents, labels),
        fitted=record.calibration.images,
    )
    if trust.known is None or trust.held_out is None or not (folder / KNOWN).exists():
        return trust
    known = united(read_known(folder / KNOWN, len(record.data.labels)), trust.known, trust.held_out)
    return replace(trust, known=known, record=replace(trust.record, images=len(known.files)))


def _both(old: Mapping[str, NDArray[Any]], new: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    return np.concatenate([each[name] for each in (old, new) if name in each])
