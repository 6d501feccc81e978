"""What a model card owns up to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hfft.markdown import escape
from hfft.record import ClassRow, RunRecord

FEW_IMAGES = 20  # per class: below this, a class's own figures are coarse


def limits(record: RunRecord) -> str:
    """Return the card's section on limits, every sentence of it derived from the record."""
    labels = len(record.data.labels)
    train = record.data.counts.get("train", 0)
    sentences = [
        f"It knows {labels:,} labels and gives one of them to every image, of whatever it may be.",
        f"It has seen {train:,} training images, {train / max(labels, 1):.3g} per label on average; "
        "images unlike them (other cameras, places, times) may be labelled worse than the figures above say.",
        *_limits_of_evidence(record),
        *_limits_by_class(record.per_class, record.per_class_split),
        f"Whatever bias the base model's pretraining brought, fine-tuning may have left in place. {_licence(record)}",
    ]
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in sentences)


def _limits_of_evidence(record: RunRecord) -> Iterable[str]:
    if "test" not in record.metrics:
        yield (
            "There was no test split. The validation images also served to compare epochs and options, "
            "so that the figures on them flatter the model."
        )
    elif record.test_evaluations is not None:
        times = "once" if record.test_evaluations == 1 else f"{record.test_evaluations:,} times"
        yield f"The run looked at the test images {times}; epochs were judged on the validation images."
    for split, metrics in record.metrics.items():
        low, high = metrics.intervals.get("accuracy", (math.nan, math.nan))
        if low == high and metrics.images:
            yield (
                f"All {metrics.images:,} {escape(split)} images were judged alike, which makes the interval a point; "
                f"error rates up to about {min(1.0, 3 / metrics.images):.2g} (3 / images) are compatible with it."
                if high == 1
                else f"None of the {metrics.images:,} {escape(split)} images was judged right."
            )
    if record.data.skipped:
        yield f"{len(record.data.skipped):,} files could not be read and were left out."


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
            "their figures are coarse."
        )
    if len(seen) < len(rows):
        yield (
            f"{len(rows) - len(seen):,} of {len(rows):,} classes have no {escape(split)} image at all: "
            "nothing is known of them."
        )


def _licence(record: RunRecord) -> str:
    if record.base.licence:
        return f"The base model's licence is {escape(record.base.licence)}."
    return "The base model's licence is not known: find out before passing this model on."
