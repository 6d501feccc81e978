"""The method, told with the loaded model's own figures, in three registers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from hfft.explain.gradcam import heat_image
from hfft.explain.journey import Journey, Stop
from hfft.inference.runs import FinishedRun
from hfft.report.card_metadata import plain_base_name, plain_policy
from hfft.space.pictures import address_of
from hfft.space.views.evidence import bars
from hfft.space.views.html import leading_split, right
from hfft.tasks.contract import Score
from hfft.wording import count_of

REGISTERS = ("At a glance", "For a practitioner", "With the mathematics")

_SIDE = 132  # pixels of a picture's side


@dataclass(frozen=True)
class Told:
    """What the lesson is told with.

    Args:
        run: the loaded model's; None without one.
        journey: of one image through it; None where there is none.
        image: which image that is, in words.
        spared: share of the arithmetic of a pass that lies in the frozen part, 0 to 1; None where it is not known.
        untrained: share of the validation images that were right before training; None where that was not kept.
        temperature: that logits are divided by.
    """

    run: FinishedRun | None
    journey: Journey | None = None
    image: str = ""
    spared: float | None = None
    untrained: float | None = None
    temperature: float = 1.0


def lesson(register: str, told: Told) -> str:
    """Return the lesson as HTML: the idea, the five stages, the training, a prediction, and what it comes to.

    Args:
        register: one of `REGISTERS`; anything else is the first.
        told: the loaded model's figures; without a run the method alone is told.
    """
    level = REGISTERS.index(register) if register in REGISTERS else 0
    parts = [_section("The idea", _idea(level, told.run))]
    if told.journey is not None and told.journey.seen is not None:
        count, drawn = _stages(told.journey, told.journey.seen, told.image)
        parts.append(_section(f"{_NUMBERS[count]} stages", _STAGES[level], drawn))
    if told.run is not None:
        parts.append(_section("The training", _training(level, told.run, told)))
    if told.journey is not None:
        answers = bars(told.journey.scores)
        parts.append(_section("A prediction", _prediction(level, told), f'<div class="narrow">{answers}</div>'))
    return f'<div class="hf-lesson">{"".join(parts)}</div>'


def insight(told: Told) -> str:
    """Return what it all comes to, in the loaded model's own figures."""
    if told.run is None:
        return "<b>The key.</b> What is frozen gives the same output for the same image: compute it once, train on it."
    run = told.run
    spared = "" if told.spared is None else f" and {1 - told.spared:.0%} of the arithmetic of a pass"
    rest = "The rest was computed once for each image, and kept." if _cached(run) else "The rest never changed."
    return (
        f"<b>The key.</b> This run trained {run.trained_share:.1%} of the weights{spared}. {rest} "
        f"On its {escape(leading_split(run))} images: {escape(right(run, leading_split(run)))}."
    )


_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five")  # stages: without a trained block, or a frozen one, fewer
_STAGES = (
    "A picture goes in on the left, an answer comes out on the right. Blue stays as it was; orange was trained.",
    "Each stage with the shapes of what it is given and gives out (channels, rows, columns). Everything up to the "
    "boundary is frozen, so what lies there is what the cache keeps.",
    "x is a tensor of shape (3, height, width); each block f_k maps (c, h, w) to (c', h', w'), so the model is a "
    "composition f_n(... f_1(x)). The boundary splits it into g, frozen, and h, trained.",
)


def _idea(level: int, run: FinishedRun | None) -> str:
    if level == 0:
        text = (
            "A model that has looked at a million pictures has learned to see: edges, fur, wheels. We keep its eyes as "
            "they are, which is called frozen, and teach only its last part the names of new things. That takes few "
            "pictures and little time."
        )
    elif level == 1:
        text = (
            "Frozen means no gradient and eval mode, parameters and running statistics alike. So for a given image the "
            "frozen part gives the same activations in every epoch: they are computed once, kept at the boundary, and "
            "all epochs train on them."
        )
    else:
        text = (
            "Write the model as h(g(x; a); b). Freezing a leaves the minimum over b of the mean of "
            "-log softmax(h(z_i; b))[y_i] over n images, where z_i = g(x_i; a) does not depend on b. So each z_i is "
            "computed once, and the gradient with respect to a is never needed: E epochs cost n forward passes of g "
            "instead of E n."
        )
    return text if run is None else f"{text} {_of_this_model(run)}"


def _of_this_model(run: FinishedRun) -> str:
    total = sum(part.parameters for part in run.record.parts)
    trained = sum(part.trained for part in run.record.parts)
    if not total:
        return ""
    return (
        f"Here: {plain_base_name(run.record)} has {total:,} parameters; {trained:,} of them "
        f"({trained / total:.1%}) were trained: {plain_policy(run.record.policy)}."
    )


def _training(level: int, run: FinishedRun, told: Told) -> str:
    counts = run.record.data.counts
    train, validation = counts.get("train", 0), counts.get("validation", 0)
    epochs = sum(phase.epochs for phase in run.record.plan)
    looked = f"{count_of(train, 'image was', 'images were')} looked at for {count_of(epochs, 'epoch')}"
    text = f"{looked}, and {count_of(validation, 'other')} told how it went. "
    if told.untrained is not None:
        text += f"Before any training {run.record.solved.reached(told.untrained, validation)}. "
    if run.rows:
        text += _best(run, validation)
    if level == 0:
        return text
    seconds = run.record.seconds
    kept = f"kept ({run.record.cache.mode})" if _cached(run) else "not kept"
    text += (
        f" {seconds.get('prefix', math.nan):.1f} s went into the frozen part and "
        f"{seconds.get('training', math.nan):.1f} s into training; the activations were {kept}."
    )
    if level == 2 and told.spared is not None and _cached(run):
        passes = math.ceil(epochs) * (train + validation)
        text += (
            f" With s = {told.spared:.2f} of a forward pass in g, and {passes:,} forward passes asked for, the cache "
            f"spares {max(passes - train - validation, 0):,} of g, that is {_spared(told.spared, epochs):.0%} of the "
            "arithmetic of all forward passes."
        )
    return text


def _spared(share: float, epochs: float) -> float:
    """Return the share of all forward arithmetic that is spared where the frozen share is computed once."""
    return share * (1 - 1 / max(epochs, 1))


def _best(run: FinishedRun, images: int) -> str:
    rows, best = run.rows, run.record.best_epoch
    row = next((row for row in rows if best is not None and math.isclose(row.epoch, best)), rows[-1])
    which = "best" if best is not None else "last"
    note = "; the best epoch was chosen on them, so this is optimistic" if best is not None else ""
    found = run.record.solved.reached(row.score, images)
    return f"After epoch {row.epoch:g}, the {which}, {found}{note}."


def _prediction(level: int, told: Told) -> str:
    assert told.journey is not None
    best = told.journey.scores[0]
    said = f" {best.said}" if best.share is None else f", with a probability of {best.said}"
    text = f"Of {told.image} the model says {best.label}{said}."
    if level == 0:
        return text
    text += f" Its pooled features are weighed by the head, one sum for each output. {told.journey.made}"
    if told.temperature != 1:
        text += (
            f" The sums are divided by a temperature of {told.temperature:.3g} first, fitted on the validation images."
        )
    if level == 2 and told.run is not None and told.run.record.solved.chooses:
        text += " p_c = exp(s_c / T) / sum over k of exp(s_k / T), with s = W z + b, z the pooled features, and T the "
        text += f"temperature ({told.temperature:.3g} here)."
    return text


def _stages(journey: Journey, seen: Image.Image, image: str) -> tuple[int, str]:
    """Return how many stages this model has, and the stages as cards."""
    frozen = [stop for stop in journey.stops if not stop.trained and stop.part != "head"]
    trained = [stop for stop in journey.stops if stop.trained and stop.part != "head"]
    head = [stop for stop in journey.stops if stop.part == "head"]
    groups = (("Frozen part", "frozen", frozen), ("Retrained part", "trained", trained), ("Head", "trained", head))
    shape = journey.stops[0].shape_in if journey.stops else ()
    alt = f"The model's input, {image}"
    cards = [
        _card("Picture", "plain", f'<img src="{address_of(seen, "JPEG", _SIDE)}" alt="{escape(alt)}">', (), shape),
        *(_stage(name, kind, stops) for name, kind, stops in groups if stops),
        _card("Answer", "plain", f"<b>{escape(_first(journey.scores[0]))}</b>", (), ()),
    ]
    note = f'<p class="hf-note">Of {escape(image)}.</p>'
    return len(cards), f'<ol class="hf-flow" aria-label="Stages">{"".join(cards)}</ol>{note}'


def _first(score: Score) -> str:
    return score.label if score.share is not None else f"{score.label} {score.said}"


def _stage(name: str, kind: str, stops: Sequence[Stop]) -> str:
    first, last = stops[0], stops[-1]
    shown = next((stop for stop in reversed(stops) if stop.maps), None)
    picture = ""
    if shown is not None:
        heat = heat_image(shown.maps[0].values).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
        alt = f"Mean size of all channels of {shown.part}, bright is high"
        picture = f'<img src="{address_of(heat)}" alt="{escape(alt)}">'
    parts = first.part if first is last else f"{first.part} to {last.part}"
    return _card(name, kind, f"{picture}<p>{escape(parts)}</p>", first.shape_in, last.shape_out)


def _card(name: str, kind: str, body: str, given: Sequence[int], made: Sequence[int]) -> str:
    shapes = [" x ".join(map(str, shape)) for shape in (given, made) if shape]
    return f'<li class="hf-card hf-{kind}"><h3>{name}</h3>{body}<p>{" → ".join(shapes)}</p></li>'


def _section(title: str, text: str, more: str = "") -> str:
    return f"<section><h2>{title}</h2><p>{escape(text)}</p>{more}</section>"


def _cached(run: FinishedRun) -> bool:
    return run.record.cache.mode != "off"
