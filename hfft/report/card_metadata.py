"""The part of a model card that the Hub reads."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from hfft.demo import EMBEDDED_MODEL, EMBEDDED_NAME
from hfft.report.record import CROSSED, RunRecord

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData


METRIC_NAMES = {
    "accuracy": "Accuracy",
    "f1_macro": "Macro-F1",
    "top5_accuracy": "Top-5 accuracy",
    "loss": "Cross-entropy (nats)",
    "ece": "Expected calibration error",
    "map": "Mean average precision",
    "f1_micro": "Micro-F1",
    "subset_accuracy": "Subset accuracy (all labels right)",
    "r2": "R2",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
}
_INDEXED: dict[str, tuple[str, dict[str, str] | None]] = {
    "accuracy": ("accuracy", None),
    "f1_macro": ("f1", {"average": "macro"}),
    "f1_micro": ("f1", {"average": "micro"}),
    "map": ("map", None),
    "r2": ("r_squared", None),
    "mae": ("mae", None),
    "rmse": ("rmse", None),
}
"""What the Hub's model index calls the metrics that it lists."""
BASELINE_NAMES = {
    "majority": "the best constant answer",
    "linear_probe": "the linear probe",
    "full_fine-tuning": "full fine-tuning",
}
# License identifiers that the Hub accepts as they are and that image models come with.
_KNOWN_LICENSE = re.compile(
    r"apache-2\.0|mit|isc|zlib|ncsa|unlicense|wtfpl|bsd(-[23]-clause)?|mpl-2\.0|epl-2\.0|ecl-2\.0|odbl|odc-by|pddl|"
    r"(a|l)?gpl-3\.0|gpl-2\.0|lgpl-2\.1|openrail(\+\+)?|cc0-1\.0|cc-by-(2\.0|2\.5|3\.0|4\.0)|cc-by-sa-[34]\.0|"
    r"cc-by-nc-[234]\.0|cc-by-nd-4\.0|cc-by-nc-nd-[34]\.0|cc-by-nc-sa-[234]\.0"
)


def card_metadata(record: RunRecord) -> ModelCardData:
    """Return what the Hub reads: task, base model, data set, license, tags and the model index."""
    from huggingface_hub import ModelCardData

    license, task = (record.base.license or "").strip(), record.solved
    known = _KNOWN_LICENSE.fullmatch(license.lower()) is not None
    return ModelCardData(
        base_model=record.base.id if record.base.on_hub and is_hub_id(record.base.id) else None,
        datasets=[record.data.name] if _data_on_hub(record) else None,
        license=license.lower() if known else ("other" if license else None),
        license_name=None if known or not license else re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-"),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", "vision", "hfft", *_kind_of_tuning(record), *task.tags],
        metrics=list(dict.fromkeys(kind for name, (kind, _) in _INDEXED.items() if name in task.metrics)),
        model_name=f"{base_name(record)}-{data_name(record)}",
        eval_results=_eval_results(record) or None,
    )


def _eval_results(record: RunRecord) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=record.data.name if _data_on_hub(record) else "imagefolder",
            dataset_name=data_name(record),
            dataset_split=split,
            metric_type=kind,
            metric_name=METRIC_NAMES[name] + (" (optimistic)" if record.optimistic(split) else ""),
            metric_args=arguments,
            metric_value=round(metrics.values[name], 6),
        )
        for split, metrics in record.leading_metrics()
        for name, (kind, arguments) in _INDEXED.items()
        if split != CROSSED and math.isfinite(metrics.values.get(name, math.nan))  # no split that others could repeat
    ]


def is_hub_id(text: str) -> bool:
    """Return whether a text has the form of a repository's id on the Hub: ``name`` or ``owner/name``."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text, re.ASCII) is not None


def _data_on_hub(record: RunRecord) -> bool:
    return record.data.on_hub and is_hub_id(record.data.name)


def _kind_of_tuning(record: RunRecord) -> list[str]:
    name = record.policy.partition(":")[0]
    return [{"head": "linear-probing", "full": "full-fine-tuning"}.get(name, "partial-fine-tuning")]


def base_name(record: RunRecord) -> str:
    """Return the base model's short name: no owner, and no folders of whoever trained."""
    return _last_name(record.base.id) or "model"


def plain_base_name(record: RunRecord) -> str:
    """Return what people call the base model: a package after its network, a local one without the folders above it."""
    if record.base.id == EMBEDDED_MODEL:
        return f"{EMBEDDED_NAME} (built in)"
    return record.base.id if record.base.on_hub else base_name(record)


def plain_policy(policy: str) -> str:
    """Return what a policy trains, in the words of somebody who knows no policies; one that has none stays a name."""
    name, _, argument = policy.partition(":")
    return _WHICH.get(policy, _WHICH[name]).format(argument) if name in _WHICH else policy


_WHICH = {
    "head": "the new head alone",
    "last_block": "the last block and the head",
    "last_n:1": "the last block and the head",
    "last_n": "the last {} blocks and the head",
    "full": "the whole model",
    "norm": "the normalisations and the head",
    "bias": "the biases and the head",
    "attention": "the attention layers and the head",
    "lp_ft": "first the head, then the last block too",
    "lp_ft:full": "first the head, then the whole model",
    "gradual": "block after block, from the head downwards",
    "surgical": "the {} block and the head",
    "auto_rgn": "first the head, then everything, each layer at its own pace",
    "lora": "small adapters beside frozen weights, and the head",
}


def data_name(record: RunRecord) -> str:
    """Return the data set's short name: no owner, and no folders of whoever trained."""
    return _last_name(record.data.name) or "images"


def plain_data_name(record: RunRecord) -> str:
    """Return what people call the data set: its id on the Hub, else its name without the folders above it."""
    return record.data.name if record.data.on_hub else data_name(record)


def _last_name(text: str) -> str:
    """Return the last part of a repository's or folder's name."""
    return " ".join(re.split(r"[/\\]", text.strip().rstrip("/\\"))[-1].split())
