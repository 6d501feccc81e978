"""The model card: what a stranger needs to know about a fine-tuned model, derived from its record and trace."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hfft.metrics import ClassRow, SplitMetrics, counted, described
from hfft.output_folder import ADAPTER
from hfft.report.card_metadata import BASELINE_NAMES, METRIC_NAMES, base_name, card_metadata, data_name, is_hub_id
from hfft.report.markdown import code, escape, number, percent, table
from hfft.report.record import CROSSED, SOUP, RunRecord
from hfft.report.trace import EpochRow, kept_row
from hfft.trust.calibration import KEY
from hfft.wording import count_of, images_of

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


MOST_ROWS = 50  # of the trace or the per-class table; a longer one is cut, and says so

DEEP_GREY = (
    "Grey images of more than 8 bits (16-bit PNG, float TIFF) are scaled to 0 to 255 by `hfft` alone: Pillow, and so "
    "the code for `transformers` alone, clips them at 255 instead. Classify such images with `hfft`, or save them as 8 "
    "bits first."
)
"""What a reader must know of `hfft.data.grey` who uses the model without hfft."""

_FIGURES = {
    "curves.png": "Losses and validation accuracy (or other score) after each epoch",
    "confusion_matrix.png": "How the images of each class were labelled",
    "reliability.png": "Accuracy over confidence",
    "predicted_against_true.png": "Predicted against true values",
    "feature_map.png": "What the head reads of the images, as points of a plane, before and after fine-tuning",
    "mistakes.png": "The most confident mistakes, each with its true and its predicted label",
}


def model_card(
    record: RunRecord,
    rows: Sequence[EpochRow],
    repo_id: str = "path/to/this/folder",
    figures: Iterable[str] = ("curves.png", "confusion_matrix.png"),
    delta_only: bool = False,
) -> ModelCard:
    """Write the card of a run.

    Args:
        record: the run's record.
        rows: its trace.
        repo_id: the Hub repository or folder that the examples load.
        figures: names of the figures that lie beside the card.
        delta_only: the repository holds no whole checkpoint.

    Returns:
        A card with metadata for the Hub (task, base model, data set, license, results) and a body.
    """
    from huggingface_hub import ModelCard

    sections = (
        _summary(record),
        _results(record),
        _images(figures),
        _plan(record),
        _trace(record, rows),
        _classes(record),
        _trust(record),
        _usage(record, repo_id, delta_only),
        _adapters(record, repo_id),
        limits(record),
        _provenance(record),
    )
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{card_metadata(record).to_yaml()}\n---\n\n{body}\n")


def _summary(record: RunRecord) -> str:
    base, data = record.base, record.data
    on_hub = base.on_hub and is_hub_id(base.id)
    name = f"[{escape(base.id)}](https://huggingface.co/{base.id})" if on_hub else escape(base_name(record))
    images = images_of({escape(split): count for split, count in data.counts.items()})
    return (
        f"# {escape(base_name(record))} fine-tuned on {escape(data_name(record))}\n\n"
        f"{escape(record.solved.described(data.labels))}: {name}, fine-tuned with hfft "
        f"{escape(record.hfft_version)} on {escape(data_name(record))} ({images}), "
        f"policy `{code(record.policy)}`. {_trained(record)}{_proof(record)}"
    )


def _trained(record: RunRecord) -> str:
    if not record.plan:
        return ""
    most = max(record.plan, key=lambda phase: phase.trainable_parameters)
    share = percent(most.trainable_parameters, most.total_parameters)
    return (
        f"At most {most.trainable_parameters:,} of {most.total_parameters:,} parameters ({share}) learned at a time. "
    )


def _proof(record: RunRecord) -> str:
    frozen = record.frozen
    if frozen is None:
        return "Nothing was frozen throughout."
    if frozen.unchanged:
        if record.adapted:
            return f"The {frozen.tensors:,} frozen tensors stayed as they were; the adapters' product is added to some."
        return f"The {frozen.tensors:,} frozen tensors are bit-identical to the base model's."
    return f"**The {frozen.tensors:,} frozen tensors did not all stay as they were: do not rely on the freeze.**"


def _results(record: RunRecord) -> str:
    if not record.metrics:
        return "## Results\n\nNo split was evaluated."
    lines = [
        [
            escape(split) + (" (optimistic)" if record.optimistic(split) else ""),
            _named(name),
            number(value) + _count(metrics, name, value),
            _interval(metrics, name),
            f"{metrics.images:,}",
        ]
        for split, metrics in record.leading_metrics()
        for name, value in metrics.values.items()
    ]
    first = record.leading_metrics()[0][1]
    text = table(["Split", "Metric", "Value", f"{first.level:.0%} interval", "Images"], lines)
    return f"## Results\n\n{text}\n\n{_notes(record, first)}{_baselines(record)}"


def _named(metric: str) -> str:
    """Return what a metric is called in a table, of one target too (``mae of width``); a task's own by its words."""
    name, of, target = metric.partition(" of ")
    return METRIC_NAMES.get(name, escape(name.replace("_", " ").capitalize())) + of + escape(target)


def _notes(record: RunRecord, first: SplitMetrics) -> str:
    others = "".join(f", of {_named(metric)} {escape(whose)}'s," for metric, whose in first.methods.items())
    kind = f" are {escape(first.method)}'s{others} and" if first.method else ""
    notes = []
    if first.intervals or first.method:
        notes.append(f"Intervals{kind} speak of images like the evaluated ones; they do not cover other data or seeds.")
    if CROSSED in record.metrics:
        notes.append(
            f"Cross-validation: {record.calibration.folds} models, each trained as this one was but without its part "
            "of the training images, on that part; nothing was chosen on it."
        )
    if record.optimistic("validation") and "validation" in record.metrics:
        notes.append(f"Validation metrics are optimistic: {_chosen(record)} chosen on the same images.")
    elif "validation" in record.metrics and (record.calibration.temperature != 1 or record.thresholds):
        fitted = "the thresholds" if record.thresholds else "the temperature"
        notes.append(f"What depends on {fitted} fitted to the validation images is optimistic on them.")
    return " ".join(notes)


def _chosen(record: RunRecord) -> str:
    """Return what was chosen on the validation images, where anything was, as the subject of a sentence."""
    return "the runs whose weights are averaged were" if record.command == SOUP else "the best epoch was"


def _baselines(record: RunRecord) -> str:
    if not record.baselines:
        return ""
    evaluated = record.metrics.get(record.per_class_split)
    lines = [
        [
            escape(BASELINE_NAMES.get(name, name).removeprefix("the ")),
            _named(metric),
            number(value) + _count(evaluated, metric, value),
        ]
        for name, values in record.baselines.items()
        for metric, value in values.items()
    ]
    text = table(["Baseline", "Metric", "Value"], lines)
    against = [
        f"- Accuracy against {escape(BASELINE_NAMES.get(name, name))}: {escape(described(difference))}"
        for name, difference in record.differences.items()
    ]
    lead = f"For comparison, on the {escape(record.per_class_split)} images:"
    return "\n\n" + "\n\n".join([lead, text, *(["\n".join(against)] if against else [])])


def _images(figures: Iterable[str]) -> str:
    return "\n\n".join(f"![{_FIGURES.get(name, escape(name))}]({name})" for name in figures)


def _plan(record: RunRecord) -> str:
    phases = [
        [
            escape(phase.name),
            f"{phase.epochs:g}",
            f"{phase.trainable_tensors:,}",
            f"{phase.trainable_parameters:,}",
            percent(phase.trainable_parameters, phase.total_parameters),
            f"`{code(phase.boundary)}`" if phase.boundary else "none",
            ", ".join(f"{escape(part)} {rate:.3g}" for part, rate in phase.learning_rates.items()),
        ]
        for phase in record.plan
    ]
    header = ["Phase", "Epochs", "Trained tensors", "Trained parameters", "Share", "Boundary", "Peak learning rates"]
    parts = [
        [escape(part.name), f"{part.parameters:,}", f"{part.trained:,}", percent(part.trained, part.parameters)]
        for part in record.parts
    ]
    tables = [table(header, phases)]
    if parts:
        tables.append(table(["Part", "Parameters", "Trained", "Share"], parts))
    decided = ["\n".join(f"- {escape(decision)}" for decision in record.decisions)] if record.decisions else []
    return "## What was trained\n\n" + "\n\n".join([*tables, *decided])


def _trace(record: RunRecord, rows: Sequence[EpochRow]) -> str:
    kept, which = kept_row(rows, record.best_epoch)
    shown = rows[-MOST_ROWS:]
    lines = [
        [
            f"{row.epoch:g}" + (f" ({which})" if row is kept else ""),
            escape(row.phase),
            "-" if math.isnan(row.train_loss) else number(row.train_loss),
            number(row.eval_loss),
            number(row.score),
            escape(row.observation),
        ]
        for row in shown
    ]
    score = f"Validation {rows[0].word if rows else 'accuracy'}"
    header = ["Epoch", "Phase", "Training loss", "Validation loss", score, "What it shows"]
    notes = []
    if len(shown) < len(rows):
        notes.append(f"The last {len(shown)} of {len(rows):,} epochs.")
    if record.best_epoch == 0:
        notes.append("The weights are those of epoch 0, before training.")
    elif record.best_epoch is not None:
        notes.append(f"The weights are those after epoch {record.best_epoch:g}, chosen on the validation images.")
    note = f"\n\n{' '.join(notes)}" if notes else ""
    return f"## Training\n\n{table(header, lines)}{note}" if rows else ""


def _classes(record: RunRecord) -> str:
    rows = record.per_class
    if not rows:
        return ""
    shown = rows if len(rows) <= MOST_ROWS else sorted(rows, key=lambda row: (row.f1, row.label))[:MOST_ROWS]
    lines = [
        [
            *(escape(row.label), f"{row.precision:.3f}", _share(row.confidence), f"{row.recall:.3f}", f"{row.f1:.3f}"),
            f"{row.support:,}",
        ]
        for row in shown
    ]
    cut = f"\n\nThe {len(shown)} weakest of {len(rows):,} classes." if len(shown) < len(rows) else ""
    text = table(["Class", "Precision", "Confidence", "Recall", "F1", "Images"], lines)
    note = "\n\nConfidence is the mean probability of the images that are given the class: at best, its precision."
    return f"## By class ({escape(record.per_class_split)} images)\n\n{text}{cut}{note}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _trust(record: RunRecord) -> str:
    """Return the section on when to believe the model; empty for a record that says nothing of it."""
    sentences = [*_calibration(record), *_thresholds(record), *_unknown(record), *_feature_map(record)]
    lines = [
        [f"{row.coverage:.0%}", f"{row.accuracy:.4f} ({row.correct:,} of {row.images:,})", f"{row.probability:.3f}"]
        for row in record.selective.rows
    ]
    if lines:
        heads = ["Images that it is surest of", "Accuracy", "Their least probability"]
        sentences.append(f"On the {escape(record.per_class_split)} images:\n\n{table(heads, lines)}")
    if record.selective.auroc is not None:
        sentences.append(
            f"With a probability of {record.selective.auroc:.3f} (AUROC) a right answer is given a higher probability "
            "than a wrong one; 0.5 would be chance."
        )
    return "## When to believe it\n\n" + "\n\n".join(sentences) if sentences else ""


def _calibration(record: RunRecord) -> Iterable[str]:
    found = record.calibration
    if not found.images:
        return
    yield (
        f"Probabilities are calibrated: logits are divided by the temperature {found.temperature:g}, fitted on "
        f"{found.source}, which is `{KEY}` in `config.json`. `hfft` applies it; the `pipeline` of "
        "`transformers` does not, and gives the same labels."
    )
    if found.missing:
        yield f"The validation images are held back from training; they were not joined by folds: {found.missing}."
    if found.before is None or found.after is None:
        yield "What that did to the calibration error was not measured, as there are no test images."
    else:
        where = "the test images" if "test" in record.metrics else "training images, fold by fold"
        yield f"Expected calibration error on {where}: {found.before:.4f} before, {found.after:.4f} after."


def _thresholds(record: RunRecord) -> Iterable[str]:
    if record.thresholds:
        yield record.solved.deciding()


def _unknown(record: RunRecord) -> Iterable[str]:
    known = record.known
    if known.missing:
        yield f"It cannot tell unknown images: {escape(known.missing)}."
    elif known.images:
        kept = "" if known.kept is None else f" Of the test images, {known.kept:.1%} are taken for known."
        yield (
            f"An image that is further from {known.images:,} of the training images than {known.share:.0%} of "
            f"{known.held_out:,} validation images is called unknown by `hfft`: none of the labels.{kept}"
        )


def _feature_map(record: RunRecord) -> Iterable[str]:
    found = record.feature_map
    if found is None:
        return
    before = "" if found.alike_before is None else f"{found.alike_before:,} before fine-tuning and for "
    yield (
        f"In what the head reads, the nearest of {found.train:,} training images is of the right class for {before}"
        f"{found.alike_after:,} after it, of {found.validation:,} validation images. The plane that is drawn has "
        f"{found.share_after:.0%} of the variance of these features."
    )


def _usage(record: RunRecord, repo_id: str, delta_only: bool) -> str:
    name, given = _literal("merged" if delta_only else repo_id), _literal(repo_id)
    grey = record.base.channels == 1
    mode = '"L"' if grey else '"RGB"'
    trusted = ", trust_remote_code=True" if record.base.own_code else ""
    note = (
        "This repository holds the delta alone, which `hfft` applies to the base model. For `transformers`, first "
        f"write the whole checkpoint: `hfft merge {code(shlex.quote(repo_id))} --output_dir merged`.\n\nThen, with"
    )
    return f"""## How to use it

{note if delta_only else "With"} `transformers` alone{_own_code(record)}:

{_GREY if grey else _pipeline(name + trusted)}```python
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained({name})
model = AutoModelForImageClassification.from_pretrained({name}{trusted}).eval()
image = ImageOps.exif_transpose(Image.open("image.jpg")).convert({mode})  # turned as the camera was held
inputs = processor(image, return_tensors="pt")
{record.solved.reading()}
```

With `hfft`:

```python
import hfft

classifier = hfft.load_classifier({given})
print(next(hfft.classify(classifier, ["image.jpg"])))
model, processor = hfft.load({given})
```

{DEEP_GREY}"""


def _adapters(record: RunRecord, repo_id: str) -> str:
    """Return how PEFT reads the adapters of ``--policy lora``; empty for other policies."""
    if not record.adapted:
        return ""
    given, base = _literal(repo_id), _literal(_base_id(record))
    return f"""## Adapters

The weights hold the low-rank adapters already. Alone, in the format of PEFT and together with the head, they are in
`{ADAPTER}`. `peft` puts them into the base model:

```python
from peft import PeftModel
from transformers import AutoModelForImageClassification

labels = {len(record.data.labels)}
base = AutoModelForImageClassification.from_pretrained({base}, num_labels=labels, ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(base, {given}, subfolder="{ADAPTER}").eval()
```"""


def _literal(text: str) -> str:
    """Return a text as Python writes it in double quotes."""
    return json.dumps(text, ensure_ascii=False)


_GREY = "It reads grey images, which `pipeline` does not give it, so step by step:\n\n"


def _pipeline(model: str) -> str:
    return f"""```python
from transformers import pipeline

classify = pipeline("image-classification", model={model})
print(classify("image.jpg"))
```

or step by step:

"""


def _own_code(record: RunRecord) -> str:
    """Return what a reader must know of a checkpoint that stock classes do not load; empty for others."""
    if not record.base.own_code:
        return ""
    return (
        f" (which has no image classifier for this type: `{record.base.own_code}`, a small file beside the weights, is "
        "the model's code, and `trust_remote_code=True` runs it; `hfft` does not need that)"
    )


def _provenance(record: RunRecord) -> str:
    processes = count_of(record.processes, "process", "processes")
    facts = {
        "Base model": " at ".join(filter(None, [_base_id(record), record.base.revision])),
        "SHA-256 of the base weights": record.base.sha256 or "not recorded",
        "Run": f"{record.created}, seed {record.seed}, {processes} on {record.device}",
        "Seconds": ", ".join(f"{name} {value:.1f}" for name, value in record.seconds.items()),
        "Activation cache": _cache(record),
        "Versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
    }
    lines = [f"- {name}: {escape(text)}" for name, text in facts.items() if text]
    return "## How it was made\n\n" + "\n".join(lines) + "\n\n`hfft.json` holds every option and version."


def _base_id(record: RunRecord) -> str:
    """Return the base model's id, without the folders above it where it is a local one."""
    return record.base.id if record.base.on_hub else base_name(record)


def _cache(record: RunRecord) -> str:
    cache = record.cache
    if cache.mode == "off":
        return f"off ({cache.reason_off})" if cache.reason_off else "off"
    text = f"{cache.mode}, {cache.bytes / 1e6:.1f} MB, {cache.hits:,} images read from it"
    if cache.engine == "torch":
        return text
    return f"{text}; computed by {cache.engine}, within {cache.engine_difference:.1e} of PyTorch's activations"


def _count(metrics: SplitMetrics | None, name: str, value: float) -> str:
    """Return ``(19 of 20)`` for an accuracy on few images, with a space before it; nothing else."""
    if metrics is None or name != "accuracy":
        return ""
    _, space, count = counted(value, metrics.images).partition(" ")
    return space + count


def _interval(metrics: SplitMetrics, name: str) -> str:
    if name not in metrics.intervals:
        return ""
    low, high = metrics.intervals[name]
    return f"{low:.3f} to {high:.3f}"


FEW_IMAGES = 20  # per class: below this, a class's own metrics are coarse


def limits(record: RunRecord) -> str:
    """Return the card's section on limits, every sentence of it derived from the record."""
    labels = len(record.data.labels)
    train = record.data.counts.get("train", 0)
    each = f", {train / max(labels, 1):.3g} per label on average" if record.per_class else ""
    sentences = [
        escape(record.solved.limit(record.data.labels))
        + ("; `hfft` says beside it which images are unlike the training images." if record.known.images else "."),
        f"It has seen {train:,} training images{each}; "
        "images unlike them (other cameras, places, times) may be labelled worse than the metrics above say.",
        *_limits_of_evidence(record),
        *_limits_by_class(record.per_class, record.per_class_split),
        f"Whatever bias the base model's pretraining brought, fine-tuning may have left in place. {_license(record)}",
    ]
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in sentences)


def _limits_of_evidence(record: RunRecord) -> Iterable[str]:
    if "test" not in record.metrics:
        crossed = " Those of cross-validation do not." if CROSSED in record.metrics else ""
        flatters = f"{_chosen(record)[0].upper()}{_chosen(record)[1:]} chosen on the validation images, so that"
        if not record.optimistic("validation"):
            flatters = "Where options or runs were compared by the validation images,"
        yield f"There was no test split. {flatters} the metrics on them flatter the model.{crossed}"
    elif record.test_evaluations is not None:
        times = "once" if record.test_evaluations == 1 else f"{record.test_evaluations:,} times"
        yield f"The run looked at the test images {times}; epochs were judged on the validation images."
    if record.data.deep_grey:
        yield (
            f"**{record.data.deep_grey:.1%} of the training images are grey of more than 8 bits: the results above "
            "hold where images are read as `hfft` reads them, and not with `pipeline`, which clips them at 255.**"
        )
    if record.data.skipped:
        files = len(record.data.skipped)
        yield (
            f"{files:,} files could not be read and were left out."
            if files > 1
            else "One file could not be read and was left out."
        )


def _limits_by_class(rows: Sequence[ClassRow], split: str) -> Iterable[str]:
    seen = [row for row in rows if row.support]
    if seen:
        weakest = min(seen, key=lambda row: row.recall)
        yield (
            f"The weakest class is {escape(weakest.label)}: {weakest.recall:.3f} of its {weakest.support:,} "
            f"{escape(split)} images are recognised."
        )
    few = [row for row in seen if row.support < FEW_IMAGES]
    if few:
        yield (
            f"{len(few):,} of {len(rows):,} classes have fewer than {FEW_IMAGES} {escape(split)} images; "
            "their metrics are coarse."
        )
    if len(seen) < len(rows):
        yield (
            f"{len(rows) - len(seen):,} of {len(rows):,} classes have no {escape(split)} image at all: "
            "nothing is known of them."
        )


def _license(record: RunRecord) -> str:
    if record.base.license:
        return f"The base model's license is {escape(record.base.license)}."
    return "The base model's license is not known: find out before passing this model on."
