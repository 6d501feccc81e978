"""The five steps of a prediction as HTML; every name is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from hfft.explain.evidence import Channel, Evidence, PredictionTrace
from hfft.explain.gradcam import ActivationMap, heat_image
from hfft.inference.classifier import Prediction
from hfft.space.pictures import address_of
from hfft.space.views import html as views
from hfft.tasks.contract import Score
from hfft.trust.known import Neighbour

Faces = Mapping[int, Sequence[tuple[Image.Image, str]]]
"""By feature, small pictures of training images in which it is largest, each with its class."""
_SHOWN = 4  # features that are shown for a class, and against it


def shown_features(trace: PredictionTrace) -> list[int]:
    """Return the features that the steps show, each once."""
    shown = [(*each.supporting[:_SHOWN], *each.opposing[:_SHOWN]) for each in trace.evidence]
    return sorted({number for pairs in shown for number, _ in pairs})


def steps(trace: PredictionTrace, faces: Faces | None = None) -> str:
    """Return the five steps of a prediction.

    Args:
        trace: of the prediction.
        faces: what stands beside the features; nothing where the training images are not there.
    """
    faces = faces or {}
    shown = (
        " The pictures are the training images in which a feature is largest, as a share of all features."
        if any(faces.values())
        else ""
    )
    parts = [
        _step("1. What the model sees", "The image after resizing and cutting.", _picture(trace.seen)),
        _step(f"2. What the frozen part makes of it ({trace.frozen_part or 'nothing is frozen'})", *_frozen(trace)),
        _step(f"3. What retraining changed ({trace.retrained_part})", *_changes(trace)),
        _step(
            "4. What speaks for and against",
            f"The head reads {trace.features} pooled features. Each bar is a feature times its weight for the answer: "
            f"what it adds to its score (blue) or takes from it (orange).{shown}"
            if trace.features
            else "This model's head does not read a single vector of features, so there is nothing to weigh.",
            '<div class="hf-two">' + "".join(_evidence(each, faces) for each in trace.evidence) + "</div>",
        ),
        _step(
            "5. The answer",
            f"{trace.made} {doubt(trace.unknown_score, trace.untold)}",
            bars(trace.scores),
        ),
    ]
    return "".join(parts)


def doubt(score: float | None, why: str = "") -> str:
    """Say whether an image is like those that the model learned from; where that is not known, why."""
    if score is None:
        return UNTOLD.format(why or "the model came without them")
    if score <= 1:
        return "The image is like those that the model learned from."
    return (
        f"None of these: the image is {score:.2f} times as far from all training images as one that counts as known, "
        "so the probabilities say little."
    )


UNTOLD = "Whether it is like the images that the model learned from is not known: {}."


def bars(scores: Sequence[Score]) -> str:
    """Return labels with their probabilities as bars, each with its threshold if there is one; or numbers."""
    rows = "".join(
        f"<tr><td>{escape(each.label)}{'' if each.share is None else views.bar(each.share, '', each.mark)}</td>"
        f'<td class="n">{escape(each.said)}</td></tr>'
        for each in scores
    )
    caption = "Probability of each class" if any(each.share is not None for each in scores) else "Numbers"
    if any(each.mark is not None for each in scores):
        caption += "; it is given from the mark on"
    return f'<table class="hf-table hf-rows"><caption>{caption}</caption><tbody>{rows}</tbody></table>'


def _step(title: str, text: str, body: str) -> str:
    return f'<section class="hf-step"><h2>{escape(title)}</h2><p>{escape(text)}</p>{body}</section>'


def _frozen(trace: PredictionTrace) -> tuple[str, str]:
    text = "The channels that vary most over the image; bright is high."
    if not trace.attention:
        why = f" There are no attention maps: {trace.attention_missing}." if trace.attention_missing else ""
        return text + why, _maps(trace.frozen)
    heads = "Where the class token looks: the heads of attention that vary most, each with the share that a patch gets."
    return heads, f"{_maps(trace.attention, 'Head')}<p>{text}</p>{_maps(trace.frozen)}"


def _changes(trace: PredictionTrace) -> tuple[str, str]:
    if not trace.base:
        why = trace.base_missing or "its output cannot be laid on the image"
        return f"The base model cannot be shown beside it: {why}.", _maps(trace.retrained)
    if trace.changed == 0:
        text = "Nothing: this part was not trained, so its output is the base model's, to the last bit."
        return text, _maps(trace.retrained)
    text = "The channels that differ most from the base model's, each pair on one scale."
    if trace.changed is not None:
        text += f" Over all channels the output moved by {trace.changed:.0%} of its size in the base model."
    return text, f"<p>Now</p>{_maps(trace.retrained)}<p>Base model</p>{_maps(trace.base)}"


def _faces(pictures: Sequence[tuple[Image.Image, str]]) -> str:
    images = "".join(
        f'<img src="{address_of(picture, "JPEG")}" alt="A training image of {escape(label)}" title="{escape(label)}">'
        for picture, label in pictures
    )
    return f'<span class="hf-faces">{images}</span>' if images else ""


def _maps(channels: Sequence[Channel], what: str = "Channel") -> str:
    if not channels:
        return views.empty("Nothing to show: this part's output cannot be laid on the image.")
    figures = []
    for channel in channels:
        image = heat_image(channel.values)
        alt = f"{what} {channel.number} as a heat map of {image.height} by {image.width} cells"
        caption = f"{channel.number}: {channel.low:.2g} to {channel.high:.2g}"
        figures.append(
            f'<figure><img src="{address_of(image)}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'
        )
    return f'<div class="hf-maps">{"".join(figures)}</div>'


def _picture(image: Image.Image | None) -> str:
    if image is None:
        return views.empty("This model's input is not an image.")
    alt = f"The image as the model sees it, {image.width} by {image.height} pixels"
    picture = f'<img style="image-rendering:auto" src="{address_of(image)}" alt="{alt}">'
    return f'<div class="hf-maps"><figure>{picture}</figure></div>'


def _evidence(evidence: Evidence, faces: Faces) -> str:
    pairs = [*evidence.supporting[:_SHOWN], *reversed(evidence.opposing[:_SHOWN])]
    most = max((abs(value) for _, value in pairs), default=1.0) or 1.0
    rows = "".join(
        f"<tr><td>feature {number}{_faces(faces.get(number, ()))}{views.signed_bar(value / most)}</td>"
        f'<td class="n">{value:+.3f}</td></tr>'
        for number, value in pairs
    )
    title = f"{escape(evidence.label)} <small>{escape(evidence.said)}</small>"
    caption = f"What speaks for and against {escape(evidence.label)}"
    return (
        f'<div><b>{title}</b><table class="hf-table hf-rows"><caption>{caption}</caption>'
        f"<tbody>{rows}</tbody></table></div>"
    )


_SIDE = 1024  # pixels of the longer side of a picture under its map


def laid_over(image: Image.Image, found: ActivationMap | None, label: str) -> str:
    """Return an image with its activation map over it; the page's style says how much of the map is seen.

    Args:
        image: in RGB.
        found: the map; without one, the image stands alone.
        label: that the map speaks for.
    """
    picture = f'<img src="{address_of(image, "JPEG", _SIDE)}" alt="The image that was classified">'
    if found is None:
        return f'<figure class="hf-laid">{picture}</figure>{views.note("This model has no map of its evidence.")}'
    alt = f"Class activation map: bright spots speak for {escape(label)}"
    heat = heat_image(found.values).resize((224, 224), Image.Resampling.BICUBIC)
    return (
        f'<p role="status">Where the evidence for <b>{escape(label)}</b> lies</p>'
        f'<figure class="hf-laid">{picture}<img src="{address_of(heat)}" alt="{alt}"></figure>'
    )


_NEAR = 104  # pixels of the longer side of a training image beside an unknown one


def unlike(found: Prediction, nearest: Sequence[tuple[Neighbour, Image.Image | None]], why: str = "") -> str:
    """Say in plain words that an image is none of the classes, with the training images nearest to it.

    Args:
        found: what the model says; nothing is said of an image that is known.
        nearest: the training images, with their pictures where those are still there.
        why: it is not known whether it is; empty where the model came without its training images.
    """
    if found.unknown_score is None:
        return views.note(doubt(None, why))
    if not found.unknown:
        return ""
    figures = []
    for each, picture in nearest:
        name = f"{escape(each.label)} <small>{escape(each.file.rpartition('/')[2])}</small>"
        if picture is not None:
            alt = f"Training image, {escape(each.label)}"
            name = f'<img src="{address_of(picture, side=_NEAR)}" alt="{alt}"><figcaption>{name}</figcaption>'
        figures.append(f"<figure>{name}</figure>")
    return (
        '<p role="status"><b>None of these.</b> The image is unlike all training images: '
        f"{found.unknown_score:.2f} times as far from them as an image that counts as known. If it had to be one of "
        f"the classes, it would be {escape(found.label)} ({found.probability:.1%}).</p>"
        f'<p>The nearest training images</p><div class="hf-maps">{"".join(figures)}</div>'
    )
