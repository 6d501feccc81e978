"""What a finished run leaves in ``output_dir``: a stock checkpoint, the record, figures and the card."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hfft._version import __version__
from hfft.data.check import deep_grey_share
from hfft.data.images import ImageSet
from hfft.demo import EMBEDDED_DATA, EMBEDDED_MODEL
from hfft.errors import DataError, DivergedError, HfftError, PreemptedError
from hfft.jobs.reproduce import content_hash, weights_hashes
from hfft.jobs.run import Run, judged
from hfft.jobs.units import in_own_units
from hfft.metrics import WORDS, SplitMetrics, counted, described
from hfft.models.channels import channels_of
from hfft.models.checkpoint import save_checkpoint
from hfft.models.delta import write_adapters, write_delta
from hfft.output_folder import CLASSES, CODE, EPOCH_ANSWERS, FEATURE_MAP, KNOWN, RECORD
from hfft.packages import version
from hfft.plugin.table import HEADED
from hfft.report.card_metadata import BASELINE_NAMES
from hfft.report.fonts import shown_by_number
from hfft.report.plots import MapPlot, Panel
from hfft.report.record import (
    CROSSED,
    BaseRecord,
    CacheRecord,
    DataRecord,
    FrozenRecord,
    MapRecord,
    MistakeRow,
    PartRecord,
    PhaseRecord,
    RunRecord,
    write_record,
)
from hfft.report.staging import staged_results
from hfft.report.trace import PROBE, EpochRow, epoch_table, observe
from hfft.report.write import Evidence, write_predictions, write_report
from hfft.split.engines import native_bf16
from hfft.tasks.contract import THRESHOLDS
from hfft.training.callbacks import RESUME_HINT
from hfft.training.progress import PhaseResult, Progress
from hfft.training.resume import list_checkpoints
from hfft.training.setup import Settings, Setup
from hfft.trust.calibration import Calibration, calibration_errors, crossed_errors, temperature_of
from hfft.trust.classes import write_kept
from hfft.trust.epoch_answers import write_epoch_answers
from hfft.trust.feature_map import FeatureMap, write_map
from hfft.trust.known import write_known
from hfft.wording import count_of

PACKAGES = (
    *("torch", "torchvision", "transformers", "timm", "accelerate", "datasets", "evaluate", "safetensors"),
    *("huggingface_hub", "numpy", "pillow", "scikit-learn", "scipy", "imagehash"),
)
_WORSE = 0.02
"""Calibration error that a temperature may add without a word."""
_LONG_TRAINING = 10.0
"""Seconds on a CPU from which on half of them are worth a line."""


def write_results(run: Run) -> str:
    """Write everything that a run leaves behind and return what to tell the user.

    Raises:
        OutputError: a file cannot be written; what an earlier run left in the folder is as it was.
    """
    rows = trace_rows(run)
    drawn = frozenset(name for name in run.setup.drawn if (run.folder / name).exists())
    with staged_results(run.folder, run.settings.training.overwrite_output_dir, drawn) as folder:
        run.trust.task.write(run.model.config)
        base = (run.setup.base.name, run.setup.base.revision)
        write_adapters(folder, run.model, run.setup.pretrained, base)
        save_checkpoint(run.model, run.processor, folder)
        write_delta(folder, run.model, run.setup.pretrained, base)
        if run.trust.known is not None:
            write_known(folder / KNOWN, run.trust.known)
        if run.trust.kept is not None:
            write_kept(folder / CLASSES, run.trust.kept)
        # Of one evaluation there is nothing beside the result, and the Space alone reads it, which shows one label.
        if len(run.progress.answers.epochs) > 1 and run.trust.task.chooses:
            write_epoch_answers(folder / EPOCH_ANSWERS, run.progress.answers, judged(run.predictions["validation"])[1])
        if run.trust.map is not None:
            write_map(folder / FEATURE_MAP, run.trust.map)
        _write_predictions(folder / "predictions.csv", run)
        for write in run.beside:
            write(folder)
        record = make_record(run, folder)
        _write_metrics(folder, run, record)
        evidence = _evidence(run, record)
        write_report(folder, record, rows, evidence, str(run.folder))
        record.written = sorted({RECORD, *drawn, *(file.name for file in folder.iterdir())})
        write_record(folder / RECORD, record)
    run.progress.written = True
    return "\n".join([epoch_table(rows, encoding=sys.stdout.encoding), *_summary(record, run.folder)])


def trace_rows(run: Run) -> list[EpochRow]:
    """Return one row for each evaluated epoch, from the Trainer's own log.

    The evaluation at the end, of the weights that are handed back, is one of them where the last epoch had none.
    """
    rows: list[EpochRow] = []
    train_loss, learning_rate, task = float("nan"), float("nan"), run.trust.task
    for entry in run.progress.log:
        train_loss = entry.get("loss", train_loss)
        learning_rate = entry.get("learning_rate", learning_rate)
        if "eval_loss" in entry and (not rows or entry["epoch"] > rows[-1].epoch):
            row = EpochRow(
                epoch=entry["epoch"],
                phase=entry.get("phase", run.phases[-1].view.name),  # the evaluation at the end is of no phase
                train_loss=train_loss,
                eval_loss=entry["eval_loss"],
                score=entry[f"eval_{task.metric}"],
                learning_rate=learning_rate,
                seconds=entry.get("epoch_seconds", float("nan")),
                metric=task.metric,
            )
            rows.append(row)
            row.observation = observe(rows, len(run.sets.labels) if task.chooses else None)
            train_loss = float("nan")  # until one of other steps is logged
    return [*_probe_row(run), *rows]


def _probe_row(run: Run) -> Iterator[EpochRow]:
    """Yield the linear probe as epoch 0 where it stood beside a training that did not begin with it."""
    if metrics := run.progress.untrained:
        score, loss = metrics[f"eval_{run.sets.task.metric}"], metrics["eval_loss"]
        row = EpochRow(
            epoch=0.0,
            phase=PROBE,
            train_loss=float("nan"),
            eval_loss=loss,
            score=score,
            learning_rate=float("nan"),
            seconds=float("nan"),
            metric=run.sets.task.metric,
        )
        row.observation = f"Linear probe: {row.word} {score:.3f} at validation loss {loss:.3f}, beside the training."
        yield row


def make_record(run: Run, folder: Path) -> RunRecord:
    """Gather everything that a reader needs to judge the run and to repeat it; `folder` holds its checkpoint."""
    training = run.settings.training
    split = "test" if "test" in run.predictions else "validation"
    task, names = run.trust.task, run.sets.labels
    found = {name: task.judge(*judged(prediction), names) for name, prediction in run.predictions.items()}
    logits, targets = judged(run.predictions[split])
    return RunRecord(
        hfft_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=_base(run),
        data=_data(run),
        policy=run.plan.policy,
        plan=[_phase(result) for result in run.phases],
        metrics={name: each.metrics for name, each in found.items()} | _cross_validated(run),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        arguments=arguments_of(run.settings),
        anatomy=asdict(run.plan.anatomy),
        parts=_parts(run),
        seed=training.seed,
        processes=training.world_size,
        device=torch.cuda.get_device_name(training.device) if training.device.type == "cuda" else training.device.type,
        seconds=_seconds(run),
        cache=_cache(run),
        per_class=found[split].per_class,
        per_class_split=split,
        best_epoch=run.best_epoch,
        frozen=_frozen(run.phases[-1]),
        baselines=run.baselines.metrics(split, targets),
        differences=run.baselines.differences(split, task.answers(logits), targets),
        files=weights_hashes(folder),
        test_evaluations=int("test" in run.predictions),
        identity=run.progress.identity,
        decisions=list(run.progress.decisions),
        calibration=_calibration(run),
        selective=found[split].selective,
        known=run.trust.record,
        feature_map=_map_record(run.trust.map) if run.trust.map is not None else None,
        task=task.name,
        thresholds=list(getattr(run.model.config, THRESHOLDS, ())),
        extended=run.extended,
        command=run.command,
    )


def _map_record(found: FeatureMap) -> MapRecord:
    before, after = found.before, found.after
    return MapRecord(
        len(found.labels["train"]),
        len(found.labels["validation"]),
        None if before is None else before.alike,
        after.alike,
        None if before is None else before.plane.share,
        after.plane.share,
    )


def _panels(found: FeatureMap) -> list[Panel]:
    """Return what the plot of a map shows: its validation images over its training images."""
    return [
        Panel(title, side.points["train"], found.labels["train"], side.points["validation"], found.labels["validation"])
        for title, side in found.sides
    ]


def arguments_of(settings: Settings) -> dict[str, Any]:
    """Return every option with its value, flat, without secrets."""
    groups = (settings.model, settings.data, settings.policy, settings.cache)
    flat = {name: value for group in groups for name, value in asdict(group).items()}
    flat |= settings.training.to_dict()
    return {name: value for name, value in flat.items() if "token" not in name}


def _calibration(run: Run) -> Calibration:
    """Return the temperature and what it did; nothing of a task without one."""
    crossed, temperature = run.trust.crossed, temperature_of(run.model.config)
    errors: tuple[float | None, float | None] = None, None
    if not run.trust.task.chooses:
        return Calibration(temperature, 0)
    if "test" in run.predictions:
        errors = calibration_errors(*judged(run.predictions["test"]), temperature)
    elif crossed.folds:
        rows = crossed.known
        errors = crossed_errors(crossed.logits[rows], crossed.labels[rows], crossed.number[rows])
    images = run.trust.fitted or len(run.sets.validation) + int(crossed.known.sum())
    return Calibration(temperature, images, *errors, crossed.folds, crossed.missing)


def _cross_validated(run: Run) -> dict[str, SplitMetrics]:
    """Return what models reach on training images that they had not seen; nothing where there are none."""
    crossed = run.trust.crossed
    if not crossed.folds:
        return {}
    return {CROSSED: run.trust.task.judge(crossed.logits, crossed.labels, run.sets.labels).metrics}


def _base(run: Run) -> BaseRecord:
    base = run.setup.base
    on_hub = base.name != EMBEDDED_MODEL and not Path(base.name).exists()
    record = BaseRecord(base.name, base.revision or None, run.setup.pretrained.sha256, base.license or None, on_hub)
    own_code = CODE if run.model.config.model_type == HEADED else ""
    return replace(record, channels=channels_of(run.model.config), own_code=own_code)


def _data(run: Run) -> DataRecord:
    sets, given = run.sets, run.settings.data.dataset_name
    parts = {"train": sets.train, "validation": sets.validation, **({"test": sets.test} if sets.test else {})}
    return DataRecord(
        name=sets.name,
        labels=list(sets.labels),
        counts={name: len(part) for name, part in parts.items()},
        fingerprints={name: digest for name, part in parts.items() if (digest := _fingerprint(part))},
        on_hub=given is not None and not Path(given).exists() and sets.name != EMBEDDED_DATA,
        skipped=list(sets.skipped),
        notes=[*sets.notes, *run.setup.base.notes],
        sha256={name: digest for name, part in parts.items() if (digest := content_hash(part))},
        deep_grey=deep_grey_share(sets.train),
    )


def _fingerprint(images: ImageSet) -> str | None:
    try:
        return images.fingerprint()
    except DataError:  # a file that vanished during the run must not cost the results
        return None


def _phase(result: PhaseResult) -> PhaseRecord:
    view, learning_rate = result.view, result.learning_rate
    return PhaseRecord(
        name=view.name,
        epochs=result.epochs,
        trainable_tensors=result.trainable_tensors,
        trainable_parameters=view.trainable,
        total_parameters=view.parameters,
        boundary=view.boundary or None,
        learning_rates={part.part: learning_rate * part.lr_scale for part in view.parts if part.trainable},
    )


def _parts(run: Run) -> list[PartRecord]:
    views = [result.view.parts for result in run.phases]
    trained = [max(view[index].trainable for view in views) for index in range(len(views[0]))]
    return [PartRecord(part.part, part.parameters, count) for part, count in zip(views[0], trained, strict=True)]


def _seconds(run: Run) -> dict[str, float]:
    return {
        "total": run.seconds,
        "wait_for_images": sum(result.cache.wait_seconds for result in run.phases),
        "prefix": sum(result.cache.prefix_seconds for result in run.phases),
        "training": sum(result.train_metrics["train_runtime"] for result in run.phases),
        "baselines": run.baselines.seconds,
        "trust": run.trust.seconds,
        "folds": run.trust.crossed.seconds,
    }


def _cache(run: Run) -> CacheRecord:
    """Add up what the caches of all phases did; where some phase had none, the reason stands beside it."""
    uses = [result.cache for result in run.phases]
    cached = [use for use in uses if use.mode != "off"]
    reason = next((use.reason_off for use in uses if use.reason_off), "")
    if not cached:
        return CacheRecord("off", reason_off=reason)
    hits = sum(use.rows - use.computed for use in cached)
    engine = max((use.engine for use in cached), key=lambda engine: engine.difference)
    record = CacheRecord(cached[-1].mode, sum(use.bytes for use in cached), hits, reason)
    record.engine = engine.label
    record.engine_difference, record.engine_tolerance = engine.difference, engine.tolerance
    return record


def _frozen(result: PhaseResult) -> FrozenRecord | None:
    if not result.frozen_tensors:
        return None
    return FrozenRecord(result.frozen_tensors, result.frozen_before, result.frozen_after)


def _write_metrics(folder: Path, run: Run, record: RunRecord) -> None:
    """Write the Trainer's metrics and its state under the names that it gives them itself.

    Where temperature or thresholds change a metric, the finished model's is written.
    """
    found = dict(run.metrics)
    for prefix, split in (("eval", "validation"), ("test", "test")):
        if prefix in found:
            final = {f"{prefix}_{name}": value for name, value in record.metrics[split].values.items()}
            found[prefix] = {name: final.get(name, value) for name, value in found[prefix].items()}
    together = {name: value for metrics in found.values() for name, value in metrics.items()}
    for split, metrics in {**found, "all": together}.items():
        (folder / f"{split}_results.json").write_text(json.dumps(metrics, indent=4, sort_keys=True), "utf-8")
    run.state.save_to_json(str(folder / "trainer_state.json"))


def _evidence(run: Run, record: RunRecord) -> Evidence | None:
    """Add the most confident mistakes to the record, and return what the plots show, if any are wanted."""
    split = record.per_class_split
    images = run.sets.test if split == "test" else run.sets.validation
    assert images is not None
    drawn = MapPlot(_panels(run.trust.map), run.trust.map.wrong, "validation ") if run.trust.map is not None else None
    evidence = Evidence(run.trust.task, images, run.sets.labels, judged(run.predictions[split])[0], drawn)
    record.mistakes = [
        MistakeRow(each.file, each.label, each.prediction, each.probability) for each in evidence.mistakes
    ]
    return evidence if run.settings.training.figures else None


def _write_predictions(path: Path, run: Run) -> None:
    task, images = run.trust.task, run.sets.validation
    logits, _ = judged(run.predictions["validation"])
    write_predictions(path, images.files, *task.table(images.labels, task.scores(logits), run.sets.labels))


def _summary(record: RunRecord, folder: Path) -> Iterator[str]:
    yield ""
    for split, metrics in record.leading_metrics():
        yield (
            f"{split.capitalize()} {_leading(record, metrics)}"
            + ("; optimistic, as the best epoch was chosen on these images" if record.optimistic(split) else "")
        )
        if more := record.solved.more(metrics.values):
            yield more
    yield from _against_baselines(record)
    yield from trust_lines(record)
    if record.best_epoch is not None:
        metric = record.arguments.get("metric_for_best_model")
        by = f" by {metric}" if metric else ""
        yield (
            f"The weights are those of epoch {record.best_epoch:g}, the best on validation{by}."
            if record.best_epoch
            else "The weights are those of epoch 0, before training."
        )
    if record.frozen is not None:
        added = "; the saved weights have the adapters added to them" if record.adapted else ""
        yield f"All {record.frozen.tensors} frozen tensors are unchanged to the last bit{added}."
    seconds = record.seconds
    yield (
        f"{seconds['total']:.0f} s in all: {seconds['prefix']:.0f} s in the frozen prefix, "
        f"{seconds['training']:.0f} s in training."
    )
    slow = record.device == "cpu" and not record.arguments.get("bf16") and not record.arguments.get("exact")
    if slow and seconds["training"] > _LONG_TRAINING and native_bf16():
        yield (
            "This CPU multiplies bfloat16 in hardware: --bf16 true trains in 0.5 to 0.8 of the time (docs/engines.md)."
        )
    if record.arguments.get("figures") and (note := shown_by_number(record.data.labels, record.solved.noun[1])):
        yield note
    yield f"Everything is in {folder}: open {folder / 'README.md'}."


def _leading(record: RunRecord, metrics: SplitMetrics) -> str:
    """Say the metric that decides, with its interval where it has one, and on how many images."""
    name = record.solved.metric
    text = f"{WORDS[name].name} {_shown(name, metrics.values[name], metrics.images)} ("
    if name in metrics.intervals:
        low, high = metrics.intervals[name]
        text += f"{metrics.level:.0%} interval {low:.3f} to {high:.3f}, {metrics.method_of(name)}, "
    return f"{text}{count_of(metrics.images, 'image')})"


def _shown(metric: str, value: float, images: int) -> str:
    """Return a metric with three decimals; an accuracy on few images with its count."""
    return counted(value, images) if metric == "accuracy" else f"{value:.3f}"


def trust_lines(record: RunRecord) -> Iterator[str]:
    """Say what was learned about when to believe the model."""
    found = record.calibration
    if found.temperature != 1:
        line = f"Probabilities are calibrated with temperature {found.temperature:g}, fitted on {found.source}"
        if found.before is not None:
            where = "the test images" if "test" in record.metrics else "training images in folds"
            line += f": expected calibration error on {where} {found.before:.3f} before, {found.after:.3f} after"
            worse = found.after is not None and found.after > found.before + _WORSE
            line += ", which is worse: do not lean on these probabilities" if worse else ""
        yield f"{line}."
    if found.missing:
        yield f"The temperature is not cross-fitted: {found.missing}."
    if record.known.missing:
        yield f"Unknown images are not recognized: {record.known.missing}."
    elif record.known.images:
        kept = "" if record.known.kept is None else f"; {record.known.kept:.1%} of the test images are taken for known"
        yield f"Images unlike the training images are called unknown{kept}."


def _against_baselines(record: RunRecord) -> Iterator[str]:
    images = record.metrics[record.per_class_split].images
    for name, values in record.baselines.items():
        metric = record.solved.metric
        line = f"  against {BASELINE_NAMES.get(name, name)} ({_shown(metric, values[metric], images)})"
        difference = record.differences.get(name)
        yield line if difference is None else f"{line}: {described(difference)}"


@contextmanager
def weights_kept(setup: Setup, progress: Progress) -> Iterator[None]:
    """Save the trained weights if training, or what comes after it, fails or is interrupted.

    They go into a folder of their own, so that the results of an earlier run stay whole. A training that ends early
    leaves the weights of its best epoch where those are what is handed back, and else the last ones, unless they have
    diverged.

    Raises:
        BaseException: the one that was raised within, with a hint at the weights: in its text if it is hfft's own, else
            as a note.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, PreemptedError) and error.checkpoint:
            raise
        hint = _save_what_was_learned(setup, progress, isinstance(error, DivergedError))
        if isinstance(error, HfftError) and hint:
            raise type(error)(f"{error}. {hint}") from error
        if hint:
            error.add_note(hint)
        raise


def _save_what_was_learned(setup: Setup, progress: Progress, diverged: bool) -> str:
    """Save the weights and say where they are; empty where nothing was learned, or nothing can be saved.

    Where all results are written already, those are what is named.
    """
    best = progress.best
    if progress.written:
        return f"The results are in {setup.folder}"
    if not progress.stepped or (diverged and not best.tensors):
        return ""
    early = len(progress.phases) < len(setup.plan.phases)
    wanted = early and bool(best.tensors) and (diverged or setup.keeps_best)
    if wanted:
        setup.model.load_state_dict(best.tensors, strict=False)
    folder = _save_weights(setup, progress)
    if folder is None:
        return ""
    words = f"The weights of epoch {best.epoch:g}, the best, are" if wanted else "The trained weights are"
    again = f"; {RESUME_HINT}" if list_checkpoints(setup.folder) else ""
    return f"{words} saved in {folder}{again}"


def _save_weights(setup: Setup, progress: Progress) -> Path | None:
    from hfft.models.checkpoint import save_checkpoint
    from hfft.report.staging import UNFINISHED, staged_results

    if setup.settings.training.process_index:  # every process holds the same weights
        return None
    folder = setup.folder / UNFINISHED
    try:
        folder.mkdir(exist_ok=True)
        in_own_units(setup, progress)
        with staged_results(folder, overwrite=True) as staging:
            save_checkpoint(setup.model, setup.processor, staging)
    except Exception:  # the first error is the one to tell of
        with suppress(OSError):  # it holds the weights of an earlier run
            folder.rmdir()
        return None
    return folder
