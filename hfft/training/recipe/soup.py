"""A greedy soup: the mean of the weights of several epochs and runs, as far as validation images do not object.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", ICML 2022. The best weights come first, so that the soup is never worse than they are on these images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hfft.training.callbacks import PhaseCallback, deciding

KEPT = 3
"""Epochs of a run that are kept, the best ones."""
Score = tuple[float, float]
"""What decides, higher being better, and the negative loss among equals."""


@dataclass(frozen=True)
class Ingredient:
    """Weights that may go into a soup.

    Args:
        name: for people.
        score: on the validation images.
        tensors: by name; all that training may change are among them.
    """

    name: str
    score: Score
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Soup:
    """The mean of some ingredients.

    Args:
        names: of those that are in it, the best one first.
        score: on the validation images.
        best: that of the best ingredient alone.
        tensors: by name.
    """

    names: tuple[str, ...]
    score: Score
    best: Score
    tensors: dict[str, Tensor]


class KeepIngredients(PhaseCallback):
    """Keeps the weights of the best epochs of the last phase in memory.

    Args:
        run: name of the run.
        metric: that decides which are the best.
    """

    def __init__(self, run: str, metric: str) -> None:
        self.run, self.metric, self.before, self.training = run, metric, 0.0, False
        self.kept: list[Ingredient] = []

    def on_phase_begin(self, name: str, before: float) -> None:
        """Begin anew: what another phase freezes is not averaged."""
        self.kept, self.before = [], before

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at what is evaluated from now on."""
        self.training = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass over what is evaluated after training: the best weights are put back, which are here already."""
        self.training = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Copy the weights if they are among the best so far."""
        if not self.training:
            return
        metrics = kwargs["metrics"]
        score = (deciding(args, metrics, self.metric), -metrics["eval_loss"])
        if len(self.kept) < KEPT or score > self.kept[-1].score:
            tensors = {name: tensor.detach().cpu().clone() for name, tensor in kwargs["model"].state_dict().items()}
            found = Ingredient(f"{self.run}, epoch {self.before + state.epoch:g}", score, tensors)
            self.kept = sorted([*self.kept, found], key=lambda each: each.score, reverse=True)[:KEPT]


def greedy_soup(
    ingredients: Sequence[Ingredient], names: frozenset[str], evaluate: Callable[[Mapping[str, Tensor]], Score]
) -> Soup:
    """Take in one ingredient after the other, the best first, and keep those that do not make the mean worse.

    Args:
        ingredients: at least one; of equal ones the first counts as the better.
        names: of the tensors that are averaged.
        evaluate: from such tensors to how they do on the validation images.
    """
    order = sorted(ingredients, key=lambda each: each.score, reverse=True)
    taken = order[:1]
    tensors = averaged(taken, names)
    best = score = evaluate(tensors)
    for each in order[1:]:
        mixed = averaged([*taken, each], names)
        found = evaluate(mixed)
        if found >= score:
            taken, tensors, score = [*taken, each], mixed, found
    return Soup(tuple(each.name for each in taken), score, best, tensors)


def averaged(ingredients: Sequence[Ingredient], names: frozenset[str]) -> dict[str, Tensor]:
    """Return the mean of each tensor; one that counts something is the first one's."""
    first = ingredients[0].tensors
    return {
        name: torch.stack([each.tensors[name].cpu().double() for each in ingredients]).mean(dim=0).to(first[name].dtype)
        if first[name].is_floating_point()
        else first[name]
        for name in sorted(names)
    }
