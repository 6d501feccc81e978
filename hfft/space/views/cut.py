"""What the cut box shows of each place where a model can be cut: ``cut.js`` draws it, and need not ask again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hfft.explain.cuts import CutChart, CutPart, CutPlace
from hfft.metrics import wilson_interval
from hfft.report.card_metadata import plain_policy
from hfft.space.trainings.sessions import Tried
from hfft.space.views.architecture import count_text
from hfft.wording import count_of

SOON = 30.0
"""Seconds up to which a training begins as soon as the handle is let go."""

_THINNEST = 0.03  # share of the width that the smallest part gets, so that it can be seen
_BACKWARD = 2  # a backward pass computes about twice what a forward pass does


@dataclass(frozen=True)
class Wanted:
    """What is to be trained, as far as its cost depends on it.

    Args:
        policy: that is chosen.
        epochs: passes over the training images.
        train: how many images there are to train on.
        validation: how many to validate on.
        classes: how many classes.
        options: of the command, beside policy and epochs.
    """

    policy: str
    epochs: float
    train: int
    validation: int
    classes: int
    options: tuple[str, ...] = ()


def cut_value(chart: CutChart, wanted: Wanted, tried: Sequence[Tried], busy: bool = False) -> dict[str, Any]:
    """Return what the cut box draws: parts, places with their figures in words, and the cuts that were tried.

    Args:
        chart: of the model.
        wanted: what is to be trained.
        tried: cuts that were trained on these images.
        busy: whether something is training; the handle rests then.
    """
    widths = _widths(chart.parts)
    edges = [sum(widths[:index]) for index in range(len(widths) + 1)]
    policies = [place.policy for place in chart.places]
    chosen = _same_cut(wanted.policy, policies)
    return {
        "parts": [
            {"name": part.name, "width": round(100 * width, 3), "title": _part_title(part, chart)}
            for part, width in zip(chart.parts, widths, strict=True)
        ],
        "places": [_place(chart, place, wanted, edges) for place in chart.places],
        "at": policies.index(chosen) if chosen in policies else -1,
        "policy": wanted.policy,
        "tried": [
            _dot(one, 100 * edges[chart.places[policies.index(cut)].index])
            for one in tried
            if (cut := _same_cut(one.policy, policies)) in policies
        ],
        "chance": round(100 / max(wanted.classes, 1), 1),
        "busy": busy,
        "why": "" if chosen in policies else f"What is chosen below is not a cut: {plain_policy(wanted.policy)}.",
    }


def no_cut(why: str) -> dict[str, Any]:
    """Return what the cut box draws where there is nothing to cut: a sentence."""
    return {"parts": [], "places": [], "at": -1, "policy": "", "tried": [], "chance": 0, "busy": False, "why": why}


def training_seconds(chart: CutChart, place: CutPlace, wanted: Wanted) -> tuple[float, float, float]:
    """Return about how long the frozen part takes once, the training on what came out, and both without keeping it."""
    frozen = sum(part.seconds for part in chart.frozen(place))
    trained = sum(part.seconds for part in chart.trained(place))
    images = wanted.train + wanted.validation
    once = images * frozen
    train = wanted.epochs * (wanted.train * (1 + _BACKWARD) + wanted.validation) * trained
    return once, train, wanted.epochs * once + train


def _same_cut(policy: str, policies: Sequence[str]) -> str:
    """Return the name that the chart has for a policy which cuts at the same place."""
    return "last_block" if policy == "last_n:1" and "last_block" in policies else policy


def _widths(parts: Sequence[CutPart]) -> list[float]:
    """Return each part's share of the arithmetic, none too thin to be seen; they add up to 1."""
    total = sum(part.flops for part in parts) or 1
    widths = [max(part.flops / total, _THINNEST) for part in parts]
    return [width / sum(widths) for width in widths]


def _part_title(part: CutPart, chart: CutChart) -> str:
    total = sum(each.flops for each in chart.parts) or 1
    return f"{part.name}: {part.flops / total:.1%} of the arithmetic, {count_text(part.parameters)} parameters"


def _place(chart: CutChart, place: CutPlace, wanted: Wanted, edges: Sequence[float]) -> dict[str, Any]:
    once, train, plain = training_seconds(chart, place, wanted)
    frozen = [part.name for part in chart.frozen(place)]
    held = f"frozen up to {frozen[-1]}" if frozen else "nothing is frozen"
    flags = ["hfft finetune", f"--policy {place.policy}", f"--num_train_epochs {wanted.epochs:g}", *wanted.options]
    return {
        "policy": place.policy,
        "edge": round(100 * edges[place.index], 3),
        "first": place.index,
        "title": f"{place.policy}: {held}",
        "facts": _facts(chart, place, wanted, (once, train, plain)),
        "command": " ".join(flags),
        "soon": once + train <= SOON,
    }


def _facts(chart: CutChart, place: CutPlace, wanted: Wanted, cost: tuple[float, float, float]) -> list[list[str]]:
    """Return the figures of a place in words, each with its name."""
    once, train, plain = cost
    learned = chart.parameters(chart.trained(place), wanted.classes)
    everything = chart.parameters(chart.parts, wanted.classes) or 1
    spared = sum(part.flops for part in chart.frozen(place)) / (sum(part.flops for part in chart.parts) or 1)
    kept = place.kept * (wanted.train + wanted.validation)
    time = f"about {_seconds(once + train)}"
    return [
        ["Parameters trained", f"{count_text(learned)} of {count_text(everything)} ({learned / everything:.1%})"],
        ["Arithmetic spared", f"{_share(spared)} of every pass after the first" if spared else "none"],
        [
            "Kept to train on",
            f"{_megabytes(kept)} of activations" if kept else "nothing: each pass starts at the image",
        ],
        ["Time to compute", f"{time}; {_seconds(plain)} without keeping" if once else time],
    ]


def _dot(tried: Tried, edge: float) -> dict[str, Any]:
    low, high = wilson_interval(tried.right, tried.of)
    epochs = count_of(tried.epochs, "epoch")
    flattered = ", optimistic as the best epoch was chosen on them" if tried.chosen else ""
    return {
        "edge": round(edge, 3),
        "accuracy": round(100 * tried.right / max(tried.of, 1), 1),
        "low": round(100 * low, 1),
        "high": round(100 * high, 1),
        "text": f"{tried.policy}, {epochs}: {tried.right} of {tried.of} validation images right{flattered} "
        f"(95 % interval {low:.0%} to {high:.0%}), trained in {tried.seconds:.0f} s",
    }


def _share(share: float) -> str:
    """Return a share of 0 to 1; one that is almost all is not called all."""
    return "over 99%" if 0.99 < share < 1 else f"{share:.0%}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.0f} kB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
