"""One image followed through a model: what each part makes of it, and what fine-tuning changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfft.arguments import ModelArguments
from hfft.demo import EMBEDDED_MODEL
from hfft.errors import HfftError, ModelError, one_line
from hfft.explain.attention import class_token_attention
from hfft.explain.forward_pass import part_output
from hfft.explain.gradcam import feature_maps
from hfft.explain.pipeline import anatomy_of, model_inputs, part_records, scores_of, seen_image
from hfft.inference.classifier import Classifier
from hfft.models.features import head_reads
from hfft.models.load import load_model
from hfft.plugin.contract import Anatomy
from hfft.report.card_metadata import plain_base_name
from hfft.tasks.contract import Score
from hfft.tasks.single_label import SINGLE_LABEL

MAPS = 6  # channels shown of each part
_WEIGHED = 3  # labels or targets whose evidence is shown


@dataclass(frozen=True)
class Channel:
    """One channel of a part's output, or one head of its attention, laid on the image.

    Args:
        number: of the channel or head.
        values: shape (rows, columns), scaled to 0 .. 1 (together with its twin of the base model, if any).
        low: the value that 0 stands for.
        high: the value that 1 stands for.
    """

    number: int
    values: NDArray[np.float32]
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against one class: each pooled feature times its weight in the head.

    Args:
        label: the class.
        probability: of the class, 0 to 1; a number's is not a number.
        supporting: numbers of features with their contributions to the logit, largest first.
        opposing: the same, most negative first.
        said: the probability, or the number, in words.
    """

    label: str
    probability: float
    supporting: tuple[tuple[int, float], ...]
    opposing: tuple[tuple[int, float], ...]
    said: str = ""


@dataclass(frozen=True)
class PredictionTrace:
    """Five steps from an image to its label.

    Args:
        seen: the input as the model sees it; None where it is not an image.
        frozen_part: the last part that was not trained; empty where all were.
        frozen: its most active channels; none where its output is not a grid.
        attention: its heads whose attention varies most over the patches, each with the share of the class token's
            attention that goes to a patch; none where there is no such attention.
        attention_missing: why not; empty where there is.
        retrained_part: the last trained block; the last block where none was trained.
        retrained: its channels that differ most from the base model's; the most active ones without a base.
        base: the same channels of the base model; empty where that could not be loaded.
        base_missing: why not; empty where it could.
        changed: mean absolute difference of the part's output from the base's, over the base's mean absolute
            value; None without a base.
        features: how many pooled features the head reads; 0 where it does not read one vector.
        evidence: for the most likely classes, best first.
        scores: labels with their probabilities, best first.
        unknown_score: distance from the training images over the largest that counts as known: above 1 the image is
            unknown; None where the model came without its training images.
        made: what is made of the head's sums, in a sentence.
        untold: why it is not known whether the image is unknown; empty where it is, or the model came without them.
    """

    seen: Image.Image | None
    frozen_part: str
    frozen: tuple[Channel, ...]
    attention: tuple[Channel, ...]
    attention_missing: str
    retrained_part: str
    retrained: tuple[Channel, ...]
    base: tuple[Channel, ...]
    base_missing: str
    changed: float | None
    features: int
    evidence: tuple[Evidence, ...]
    scores: tuple[Score, ...]
    unknown_score: float | None
    made: str = SINGLE_LABEL.made
    untold: str = ""


def load_base(classifier: Classifier) -> PreTrainedModel:
    """Load the model that a run began from, on the classifier's device, in eval mode.

    Its head is new and means nothing; its other parts are the base's own.

    Raises:
        HfftError: there is no record, or the base is no longer where the record says.
    """
    record = classifier.record
    if record is None:
        raise ModelError("this model has no run record, so its base model is not known")
    embedded = record.base.id == EMBEDDED_MODEL
    size = record.arguments.get("image_size")
    with torch.random.fork_rng():
        arguments = ModelArguments(
            model_name_or_path=None if embedded else record.base.id,
            model_revision=record.base.revision or "main",
            image_size=size if isinstance(size, int) else None,
        )
        model, _, _ = load_model(arguments, classifier.labels, classifier.task)
    model.train(False)
    nn.Module.to(model, classifier.model.device)
    return model


def prediction_trace(
    classifier: Classifier, image: Image.Image, base: PreTrainedModel | None = None, base_missing: str = ""
) -> PredictionTrace:
    """Follow one image through a model in five steps.

    Args:
        classifier: with the record of its run.
        image: in any mode.
        base: what `load_base` returns, to show what fine-tuning changed.
        base_missing: why there is none.

    Raises:
        HfftError: the model's anatomy is not known.
    """
    anatomy = anatomy_of(classifier)
    inputs = model_inputs(classifier, image)
    frozen_part, retrained_part = _chosen_parts(classifier, anatomy)
    features, logits = _head_input(classifier, inputs)
    scores = scores_of(classifier, logits)
    attention, attention_missing = (
        class_token_attention(classifier.model, anatomy, frozen_part, inputs) if frozen_part else (None, "")
    )
    maps = _maps(classifier.model, anatomy, retrained_part, inputs)
    base_maps = None if base is None else _maps(base, anatomy, retrained_part, inputs)
    changed = None
    if maps is None or base_maps is None or maps.shape != base_maps.shape:
        retrained, twins = _most_active(maps), _most_active(None)
    else:
        retrained, twins = _most_changed(maps, base_maps)
        changed = float((maps - base_maps).abs().mean() / base_maps.abs().mean().clamp_min(1e-12))
    return PredictionTrace(
        seen=seen_image(classifier, inputs),
        frozen_part=frozen_part,
        frozen=_most_active(_maps(classifier.model, anatomy, frozen_part, inputs) if frozen_part else None),
        attention=_most_active(attention),
        attention_missing=attention_missing,
        retrained_part=retrained_part,
        retrained=retrained,
        base=twins,
        base_missing=base_missing if base is None else "",
        changed=changed,
        features=0 if features is None else features[1].numel(),
        evidence=() if features is None else _evidence(classifier.labels, *features, scores),
        scores=scores,
        unknown_score=None if features is None else _unknown_score(classifier, features[1]),
        made=classifier.task.made,
        untold=classifier.task.missing,
    )


def _unknown_score(classifier: Classifier, features: Tensor) -> float | None:
    """Return how far one image is from the training images, given what the head reads of it, shape (features,)."""
    known = classifier.known
    if known is None or known.features.shape[1] != features.numel():
        return None
    return known.compare(features[None].numpy())[0].score


def _chosen_parts(classifier: Classifier, anatomy: Anatomy) -> tuple[str, str]:
    """Return the last frozen part before any trained one, and the last trained block."""
    records = [record for record in part_records(classifier, anatomy) if record.name not in ("neck", "head")]
    first = next((place for place, record in enumerate(records) if record.trained), len(records))
    trained = [record.name for record in records if record.trained and record.name != "stem"]
    return (records[first - 1].name if first else ""), (trained[-1] if trained else records[-1].name)


def _maps(model: PreTrainedModel, anatomy: Anatomy, part: str, inputs: dict[str, Tensor]) -> Tensor | None:
    output = part_output(model, anatomy, part, inputs)
    return None if output is None else feature_maps(output, anatomy.tokens)


def _most_active(maps: Tensor | None) -> tuple[Channel, ...]:
    """Return the channels that vary most over the image."""
    if maps is None:
        return ()
    order = maps.flatten(1).std(1, correction=0).topk(min(MAPS, len(maps))).indices.tolist()
    return tuple(_channel(number, maps[number], maps[number]) for number in order)


def _most_changed(maps: Tensor, base: Tensor) -> tuple[tuple[Channel, ...], tuple[Channel, ...]]:
    """Return the channels that differ most, and their twins, on one scale each pair."""
    order = (maps - base).abs().mean((1, 2)).topk(min(MAPS, len(maps))).indices.tolist()
    pairs = [(number, torch.stack([maps[number], base[number]])) for number in order]
    now = tuple(_channel(number, maps[number], both) for number, both in pairs)
    return now, tuple(_channel(number, base[number], both) for number, both in pairs)


def _channel(number: int, values: Tensor, scale: Tensor) -> Channel:
    low, high = float(scale.min()), float(scale.max())
    shown = ((values - low) / max(high - low, 1e-12)).numpy().astype(np.float32)
    return Channel(number, shown, low, high)


def _head_input(classifier: Classifier, inputs: dict[str, Tensor]) -> tuple[tuple[nn.Linear, Tensor] | None, Tensor]:
    """Return the head's last linear layer with the vector that it reads, and the logits."""
    with head_reads(classifier.model, len(classifier.labels)) as reads:
        logits = classifier.logits(inputs)
    if not reads:
        return None, logits
    layer, features = reads[-1]
    return (layer, features[0].detach().float().cpu()), logits


def head_features(
    classifier: Classifier, image: Image.Image, base: PreTrainedModel | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Return what the head reads of an image in the base model and in the fine-tuned one, shape (features,) each.

    Args:
        classifier: the fine-tuned model.
        image: in any mode.
        base: what `load_base` returns.

    Returns:
        None for a model that is not there, or whose head does not read one vector.
    """
    inputs = model_inputs(classifier, image)
    return tuple(  # type: ignore[return-value]
        None if model is None else _read(model, len(classifier.labels), inputs) for model in (base, classifier.model)
    )


def _read(model: PreTrainedModel, labels: int, inputs: dict[str, Tensor]) -> NDArray[np.float32] | None:
    with torch.no_grad(), head_reads(model, labels) as reads:
        model(**{name: value.to(model.device) for name, value in inputs.items()})
    return reads[-1][1][0].detach().float().cpu().numpy() if reads else None


def _evidence(
    labels: Sequence[str], linear: nn.Linear, features: Tensor, scores: Sequence[Score], most: int = 6
) -> tuple[Evidence, ...]:
    rows = []
    for score in scores[:_WEIGHED]:
        index = labels.index(score.label)
        contributions = linear.weight[index].detach().float().cpu() * features
        order = contributions.argsort(descending=True).tolist()
        pairs = [(number, float(contributions[number])) for number in order]
        rows.append(
            Evidence(
                score.label,
                score.probability,
                tuple(pair for pair in pairs[:most] if pair[1] > 0),
                tuple(pair for pair in pairs[::-1][:most] if pair[1] < 0),
                score.said,
            )
        )
    return tuple(rows)


def base_or_reason(classifier: Classifier) -> tuple[PreTrainedModel | None, str]:
    """Return the base model, or None and the reason why it cannot be loaded."""
    try:
        return load_base(classifier), ""
    except (HfftError, OSError, RuntimeError, ValueError) as error:
        # Whoever reads this has no business with the folders above it.
        record, reason = classifier.record, one_line(error)
        return None, reason if record is None else reason.replace(record.base.id, plain_base_name(record))
