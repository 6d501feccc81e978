"""Recipes compared on the images themselves: cross-validated metrics, what each costs, and which one to take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.bars import bar, unsaid
from hfft.data.images import ImageSet
from hfft.errors import ArgumentError, DataError
from hfft.jobs.advice.curve import LearningCurve, learning_curve
from hfft.jobs.advice.folds import (
    Folds,
    cross_validate,
    cross_validate_probe,
    fold_by_fold,
    probe_start,
    starting_tensors,
)
from hfft.machine import heap_set_aside
from hfft.metrics import WORDS
from hfft.planning.plan import Phase, Plan, make_plan
from hfft.report.terminal import aligned
from hfft.tasks.scored import Scored
from hfft.training.baselines import HeadInputs
from hfft.training.phases import ReadyPhase, make_ready, to_device
from hfft.training.setup import Setup

POLICIES = ("head", "last_block", "last_n:2", "lp_ft")
"""What is compared by default."""
FAVOURITE = "last_block"
"""What another policy must be ahead of by more than `CLEARLY` standard errors, where it is compared."""
CLEARLY = 2.0
"""With one, policies were taken that were ahead by chance (docs/recipe.md)."""
PROBE = "linear probe"
_COLUMNS = ("95% interval", "seconds", "MB cached", "trained", "")


@dataclass(frozen=True)
class Candidate:
    """A recipe as the images see it.

    Args:
        policy: that is trained; `PROBE` for the linear probe.
        scored: how good the answers to the images of its folds are, each by a model that never saw the image.
        seconds: of one training, on cached activations where there are any.
        megabytes: of activations that it reads.
        share: of the parameters that learn, 0 to 1.
        folds: how many trainings were made.
    """

    policy: str
    scored: Scored
    seconds: float
    megabytes: float
    share: float
    folds: int

    @property
    def score(self) -> float:
        """The metric that decides: accuracy most often; higher is better, and 1 the most that it can be."""
        return self.scored.score

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval, of these images as if they had been one test set."""
        return self.scored.interval


@dataclass(frozen=True)
class Advice:
    """What to train, and why.

    Args:
        candidates: in the order of their cost, the linear probe first.
        policy: the recommended one.
        reason: in a sentence.
        images: that were compared on.
        folds: how many models each of them stands for.
        curve: of the linear probe over the number of images; None where there are too few.
        command: that trains what is recommended.
    """

    candidates: tuple[Candidate, ...]
    policy: str
    reason: str
    images: int
    folds: int
    curve: LearningCurve | None = None
    command: str = ""

    def __repr__(self) -> str:
        """Return a line; `print` draws the table."""
        return f"Advice({self.policy!r}, of {len(self.candidates)} recipes on {self.images} images)"

    def __str__(self) -> str:
        scored = self.candidates[0].scored
        columns = ("recipe", WORDS[scored.metric].name, *_COLUMNS)
        lines = aligned(columns, [self._cells(each) for each in self.candidates], words=(0, 2, 6))
        lines.append(
            f"\nBy {self.folds}-fold cross-validation on {self.images} images; intervals are {scored.method}'s, of all "
            "predictions as one sample, so they leave out what another split would change."
        )
        lines.append(self.reason)
        if self.curve is not None:
            lines.append(self.curve.more(_round_up(self.images)))
        if self.command:
            lines.append(f"\n{self.command}")
        return "\n".join(lines)

    def _cells(self, each: Candidate) -> tuple[str, ...]:
        interval = "{:.3f} to {:.3f}".format(*each.interval)
        mark = "<- recommended" if each.policy == self.policy else ""
        numbers = (f"{each.seconds:.1f}", f"{each.megabytes:.1f}", f"{each.share:.1%}")
        return each.policy, f"{each.score:.3f}", interval, *numbers, mark

    def data(self) -> dict[str, Any]:
        """Return the same as plain data."""
        rows = [
            {
                "policy": each.policy,
                each.scored.metric: each.score,
                "interval": list(each.interval),
                "seconds": each.seconds,
                "megabytes": each.megabytes,
                "share": each.share,
            }
            for each in self.candidates
        ]
        plain = {"candidates": rows, "policy": self.policy, "reason": self.reason, "command": self.command}
        more = {"metric": self.candidates[0].scored.metric, "images": self.images, "folds": self.folds}
        return {**plain, **more, "curve": self._curve()}

    def _curve(self) -> dict[str, Any] | None:
        if self.curve is None:
            return None
        more, points = _round_up(self.images), zip(self.curve.sizes, self.curve.scores, strict=True)
        return {
            "points": [[int(size), float(score)] for size, score in points],
            "now": self.curve.at(self.images),
            "more": more,
            "then": self.curve.at(self.images + more),
        }


@dataclass(frozen=True)
class Ready:
    """The phases of all candidates, each with its data sets."""

    by_trainable: dict[frozenset[str], ReadyPhase] = field(default_factory=dict)

    def stages(self, plan: Plan) -> list[ReadyPhase]:
        """Return the phases of a plan, each with the data sets of those that train the same."""
        return [replace(self.by_trainable[phase.trainable], phase=phase) for phase in plan.phases]


@dataclass
class Entrant:
    """A policy that is trained without one fold after another.

    Args:
        setup: with its plan.
        stages: its phases, with their data sets.
        trainings: gives the rows of each fold and their logits.
    """

    setup: Setup
    stages: list[ReadyPhase]
    trainings: Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]
    seconds: float = 0.0
    said: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = field(default_factory=list)

    @property
    def policy(self) -> str:
        """Its name."""
        return self.setup.plan.policy

    def train(self) -> None:
        """Train without the next fold, and answer it."""
        began = time.perf_counter()
        self.said.append(next(self.trainings))
        self.seconds += time.perf_counter() - began

    def scored(self) -> Scored:
        """Return how good the answers to the folds so far are, in the order of the images."""
        task, rows = self.setup.sets.task, np.concatenate([held_out for held_out, _ in self.said])
        logits, order = np.concatenate([logits for _, logits in self.said]), rows.argsort()
        return task.scored(task.answers(logits[order]), self.setup.sets.train.labels[rows[order]])

    def candidate(self) -> Candidate:
        """Return what is known of it."""
        made, share = len(self.said), max(_share(stage) for stage in self.stages)
        return Candidate(self.policy, self.scored(), self.seconds / made, cached_megabytes(self.stages), share, made)


@heap_set_aside()
def compare(
    setup: Setup,
    policies: Sequence[str],
    folds: int | None,
    say: Callable[[str], None],
    hurried: bool = False,
) -> Advice:
    """Cross-validate policies and the linear probe on a setup's training images, after one pass through the model.

    Args:
        setup: its model holds the pretrained weights, and holds them again afterwards; its policy does not count.
        policies: in any order.
        folds: how many; by default as many as `folds_for` says.
        say: prints a line for the user.
        hurried: do no more than the choice needs: no learning curve, and a `race` in place of all trainings of all.

    Raises:
        ArgumentError: a policy is unknown or does not fit the model, or there are fewer images than folds.
        DataError: a fold holds all images of all labels but one.
        HfftError: images or cache are not usable.
    """
    training, labels, task = setup.settings.training, setup.sets.train.labels, setup.sets.task
    parts = folds_of(setup.sets.train, folds, training.seed)
    count = len(parts)
    plans = {policy: _plan(setup, policy) for policy in policies}
    ready = ready_for(setup, [phase for plan in plans.values() for phase in plan.phases], say)
    deepest = min(ready.by_trainable.values(), key=lambda each: len(each.phase.trainable))
    began = time.perf_counter()
    reader = HeadInputs(setup, deepest.prepared.suffix)
    features = reader.features(deepest.prepared.datasets["plain"], "training")
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    probe = task.scored(cross_validate_probe(features, parts, training.seed, task), labels)
    seconds += (time.perf_counter() - began) / count
    found = [Candidate(PROBE, probe, seconds, cached_megabytes([deepest]), _share(deepest), count)]
    begin = probe_start(setup, reader, features, deepest.prepared.datasets["plain"])
    say(f"{', '.join(plans)}: {count} trainings {'at most ' * hurried}of each")
    entrants = []
    for plan in plans.values():
        own, stages = replace(setup, plan=plan), ready.stages(plan)
        entrants.append(Entrant(own, stages, fold_by_fold(own, stages, starting_tensors(own), parts, begin)))
    train_all(entrants, count, race if hurried else list)
    found += [entrant.candidate() for entrant in entrants]
    order = [found[0], *sorted(found[1:], key=lambda each: each.share)]
    policy, reason = recommend(order[1:], order[0])
    learned = None if hurried else learning_curve(features, labels, training.seed, task, setup.sets.train.groups)
    return Advice(tuple(order), policy, reason, len(labels), count, learned)


def folds_of(images: ImageSet, wanted: int | None, seed: int) -> Folds:
    """Part images into the folds of a cross-validation.

    Args:
        images: labelled.
        wanted: how many folds; None for as many as `folds_for` says.
        seed: of who goes where.

    Raises:
        ArgumentError: there are fewer images than folds.
        DataError: without one of the folds all images have the same label.
    """
    count = wanted or folds_for(len(images))
    if count > len(images):
        raise ArgumentError(f"--folds {count} is more than the {len(images)} training images")
    parts = Folds.of(images, count, seed)
    if any(len(np.unique(images.labels[rows], axis=0)) < 2 for rows, _ in parts):
        raise DataError(
            f"{images.place}: without one of {count} folds all images have the same label; give more images, or more "
            "groups of each label"
        )
    return parts


def cross_validated(setup: Setup, parts: Folds, say: Callable[[str], None]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Cross-validate a setup's own plan, and the linear probe beside it.

    Args:
        setup: its model holds the pretrained weights, and holds them again afterwards.
        parts: of its training images.
        say: prints a line for the user.

    Returns:
        The logits of every image, shape (images, labels), and the probe's answer to it.
    """
    stages = ready_for(setup, setup.plan.phases, say).stages(setup.plan)
    reader = HeadInputs(setup, stages[0].prepared.suffix)
    features = reader.features(stages[0].prepared.datasets["plain"], "training")
    probe = cross_validate_probe(features, parts, setup.settings.training.seed, setup.sets.task)
    say(f"{setup.plan.policy}: {len(parts)} trainings")
    begin = probe_start(setup, reader, features, stages[0].prepared.datasets["plain"])
    return cross_validate(setup, stages, starting_tensors(setup), parts, begin), probe


def folds_for(images: int) -> int:
    """Return how many folds fit a number of images: more of them where each image counts."""
    return 5 if images <= 500 else 3


def train_all(entrants: Sequence[Entrant], count: int, go_on: Callable[[Sequence[Entrant]], list[Entrant]]) -> None:
    """Train fold by fold, the policies in turn.

    Args:
        entrants: at the start.
        count: of folds.
        go_on: which of those that were trained without a fold are trained without the next one.
    """
    running = list(entrants)
    with bar(total=count * len(entrants), desc="Cross-validation", unit="training") as shown:
        for _ in range(count):
            for each in running:
                each.train()
                shown.update()
            running = go_on(running)
        shown.total = shown.n


def race(running: Sequence[Entrant]) -> list[Entrant]:
    """Return which policies are still in question: `FAVOURITE`, and those ahead of it by more than a standard error.

    That is on the images which all of them were asked about so far. With the favourite alone nothing is in question,
    and without it all go on. Races are due to Maron and Moore, "Hoeffding races: accelerating model selection search"
    (NIPS 1993).
    """
    favourite = next((each for each in running if each.policy == FAVOURITE), None)
    if favourite is None:
        return list(running)
    mark, found = favourite.scored(), [(each, each.scored()) for each in running if each is not favourite]
    ahead = [each for each, scored in found if scored.score - mark.score > scored.error(mark)]
    return [favourite, *ahead] if ahead else []


def recommend(candidates: Sequence[Candidate], probe: Candidate) -> tuple[str, str]:
    """Return the policy to take, and why in a sentence.

    That is `FAVOURITE` unless another is ahead of it by more than `CLEARLY` standard errors: on few images the most
    accurate policy is often so by chance. Where the favourite is not compared it is the most accurate, of equal ones
    the cheapest.

    Args:
        candidates: the cheapest first.
        probe: the linear probe, which is pointed out where it is better.
    """
    most = max(each.folds for each in candidates)
    last = [each for each in candidates if each.folds == most]
    best = max(last, key=lambda each: (each.score, each.policy == FAVOURITE))
    favourite = next((each for each in last if each.policy == FAVOURITE), best)
    needed = CLEARLY * _error(best, favourite)
    chosen = best if best.score - favourite.score > needed else favourite
    reason = f"{chosen.policy}, {chosen.scored.said}"
    if best is not chosen:
        reason += f"; {best.policy}, {best.scored.said}, is ahead by less than two standard errors ({needed:.3f})"
    elif chosen is not favourite:
        reason += (
            f", ahead of {favourite.policy}, {favourite.scored.said}, by more than two standard errors ({needed:.3f})"
        )
    else:
        reason += ", the most accurate"
    if behind := [each for each in candidates if each.folds < most]:
        said = ", ".join(f"{each.policy} after {each.folds}" for each in behind)
        reason += f"; not ahead of {favourite.policy} by a standard error were {said} of its trainings"
    elif probe.folds == most and probe.score - chosen.score > _error(probe, chosen):
        reason += f"; the linear probe, {probe.scored.said}, does better still"
    return chosen.policy, f"Recommended: {reason}."


def _error(one: Candidate, other: Candidate) -> float:
    return one.scored.error(other.scored)


def _plan(setup: Setup, policy: str) -> Plan:
    options, epochs = setup.settings.policy, float(setup.settings.training.num_train_epochs)
    return make_plan(setup.model, setup.plan.anatomy, policy, epochs, options.head_lr_scale, options.layer_decay)


def ready_for(setup: Setup, phases: Sequence[Phase], say: Callable[[str], None]) -> Ready:
    """Fill the caches of all phases: the earliest boundary from images, deeper ones from its activations."""
    plain = setup.settings.data.augment == "none"
    train = setup.sets.train
    # Where nothing is augmented, the training set itself is what held-out rows are read from.
    sets = replace(setup.sets, validation=train.select([0]) if plain else train, test=None)
    different = {phase.trainable: phase for phase in phases}
    order = tuple(sorted(different.values(), key=lambda phase: len(phase.trainable)))
    several = replace(setup, sets=sets, plan=Plan("advice", setup.plan.anatomy, order))
    to_device(several)
    began = time.perf_counter()
    ready: list[ReadyPhase] = []
    for group in _nested(order):
        ready += make_ready(several, group, unsaid)
    say(f"{len(train)} images through the frozen part: {time.perf_counter() - began:.1f} s.")
    for each in ready:
        datasets = each.prepared.datasets
        datasets["plain"] = datasets["train" if plain else "validation"]
    return Ready({each.phase.trainable: each for each in ready})


def _nested(phases: Sequence[Phase]) -> list[list[Phase]]:
    """Group phases so that in each group whatever one trains the next ones train as well."""
    groups: list[list[Phase]] = []
    for phase in phases:
        fits = next((group for group in groups if group[-1].trainable <= phase.trainable), None)
        if fits is None:
            groups.append([phase])
        else:
            fits.append(phase)
    return groups


def _share(ready: ReadyPhase) -> float:
    return ready.view.trainable / ready.view.parameters


def cached_megabytes(stages: Sequence[ReadyPhase]) -> float:
    """Return the megabytes of activations that a training reads."""
    return max(stage.prepared.bytes for stage in stages) / 1e6


def _round_up(images: int) -> int:
    """Return a round number of images to ask for: half as many as there are or more, at most 1,000."""
    return next(step for step in (10, 20, 50, 100, 200, 500, 1000) if step >= min(images / 2, 1000))
