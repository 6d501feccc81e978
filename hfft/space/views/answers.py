"""Two answers to one picture, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hfft.inference.classifier import Prediction
from hfft.space.views.evidence import bars
from hfft.tasks.contract import Score

_SHOWN = 3  # labels of each answer


def both_answers(before: Prediction | None, after: Prediction | None, model: str) -> str:
    """Return what a model said before training and after it.

    Args:
        before: of the pretrained model, with the classes that it came with.
        after: of the model in use; None where there is none yet.
        model: its name.
    """
    if before is None:
        return '<p class="hf-note">The answers stand here, from before training and from after it.</p>'
    own = f"After training: {model}" if model else "After training"
    return (
        '<div aria-live="polite">'
        + _answer("Before training, among the classes it came with", before, "")
        + _answer(own, after, "Nothing has been trained yet: press Train.")
        + "</div>"
    )


def _answer(title: str, found: Prediction | None, nothing: str) -> str:
    if found is not None and found.error:
        nothing, found = f"No answer: {found.error}.", None
    body = f"<p>{escape(nothing)}</p>" if found is None else f"<p><b>{escape(_headline(found))}</b></p>"
    if found is not None and found.unknown:
        body = "<p><b>None of these</b>: it is unlike all training images. Among the classes it would be:</p>"
    rows = bars(found.top[:_SHOWN]) if found else ""
    return f"<h3>{escape(title)}</h3>{body}{rows}"


def _headline(found: Prediction) -> str:
    return found.node.label if found.node is not None and found.node.label else found.answer.headline


def in_words(found: Prediction, scores: Sequence[Score]) -> str:
    """Show what is answered where a list of the most probable labels does not; nothing where it does.

    Args:
        found: the answer.
        scores: what is drawn of it: labels with their thresholds, or numbers.
    """
    if found.values or found.labels is not None:
        return bars(scores)
    if found.node is None:
        return ""
    if not found.node.label:
        return '<p role="status">No node of the tree is sure enough to be named.</p>'
    node = f"<b>{escape(found.node.label)}</b> ({found.node.probability:.1%})"
    return f'<p role="status">The deepest node of the tree that is sure enough: {node}</p>'
