"""Many linear heads trained at once, of many learning rates, decays and seeds; their mean is one linear layer.

The mean of the logits of linear layers is the logits of the mean layer, so that an ensemble (Lakshminarayanan et al.,
"Simple and scalable predictive uncertainty estimation using deep ensembles", 2017) costs nothing where it is used, and
a checkpoint stays what it was. Which rates and decays take part is chosen greedily (Caruana et al., "Ensemble selection
from libraries of models", 2004) on a part of the training images that they are not trained on; then those heads are
trained on all of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfft.training.baselines import LinearProbe, held_out_rows, standardised

RATES = (0.001, 0.003, 0.01, 0.03)
DECAYS = (0.0, 0.1, 1.0)
SEEDS = 4
STEPS, BATCH = 200, 32
_BETAS, _TINY = (0.9, 0.999), 1e-8
_SPREAD = 0.01  # of the first weights


@dataclass(frozen=True)
class Kind:
    """Heads of one learning rate and one decay, of which there is one for each seed."""

    rate: float
    decay: float


KINDS = tuple(Kind(rate, decay) for rate, decay in itertools.product(RATES, DECAYS))


@dataclass(frozen=True)
class Heads:
    """A stack of linear layers.

    Args:
        weight: shape (heads, classes, features).
        bias: shape (heads, classes).
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return what each head makes of features (images, features), shape (heads, images, classes)."""
        return torch.einsum("nd,hcd->hnc", features, self.weight) + self.bias[:, None]


def fit_ensemble(features: NDArray[np.float64], labels: NDArray[np.int64], seed: int) -> LinearProbe:
    """Train an ensemble of linear heads and return the one layer that gives the mean of their logits.

    Args:
        features: what the head reads, shape (images, features).
        labels: number of each image's class, shape (images,); at least two different ones.
        seed: of first weights, of the order of images, and of those that kinds are chosen on.
    """
    classes, targets = np.unique(labels, return_inverse=True)
    mean, scale = standardised(features)
    rows = torch.from_numpy((features - mean) / scale).float()
    truth, count = torch.from_numpy(targets), len(classes)
    held_out = held_out_rows(labels, seed)
    kinds: Sequence[Kind] = KINDS
    if len(held_out):
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        heads = train_heads(rows[rest], truth[rest], count, KINDS, seed)
        kinds = chosen(heads.logits(rows[held_out]), truth[held_out])
    return folded(train_heads(rows, truth, count, kinds, seed), classes, mean, scale)


def train_heads(rows: Tensor, targets: Tensor, classes: int, kinds: Sequence[Kind], seed: int) -> Heads:
    """Train `SEEDS` heads of each kind in one loop: AdamW with a cosine schedule, by batches that share an order.

    Args:
        rows: standardised features, shape (images, features).
        targets: class of each, counted from 0, shape (images,).
        classes: how many there are.
        kinds: of heads; those of one kind come one after the other.
        seed: of first weights and order.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    first = _SPREAD * torch.randn(SEEDS, classes, rows.shape[1], generator=generator)
    weight = first.repeat(len(kinds), 1, 1)
    parameters = [weight, torch.zeros(weight.shape[:2])]
    rate = torch.tensor([kind.rate for kind in kinds]).repeat_interleave(SEEDS)
    decay = torch.tensor([kind.decay for kind in kinds]).repeat_interleave(SEEDS)
    moments = [(torch.zeros_like(each), torch.zeros_like(each)) for each in parameters]
    for step in range(STEPS):
        batch = torch.randint(len(rows), (SEEDS, min(BATCH, len(rows))), generator=generator)
        gradients = _gradients(parameters, rows[batch], targets[batch], len(kinds))
        factor = rate * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        parameters[0] *= (1 - factor * decay)[:, None, None]
        for parameter, gradient, moment in zip(parameters, gradients, moments, strict=True):
            parameter -= factor.view(-1, *[1] * (parameter.ndim - 1)) * _adam(gradient, moment, step + 1)
    return Heads(*parameters)


def _gradients(parameters: list[Tensor], rows: Tensor, targets: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """Return those of the mean cross-entropy of each head on the batch of its seed."""
    weight, bias = parameters
    rows, targets = rows.repeat(kinds, 1, 1), targets.repeat(kinds, 1)
    shares = torch.softmax(torch.einsum("hbd,hcd->hbc", rows, weight) + bias[:, None], dim=-1)
    shares.scatter_add_(2, targets[..., None], -torch.ones_like(targets[..., None], dtype=shares.dtype))
    shares /= rows.shape[1]
    return torch.einsum("hbc,hbd->hcd", shares, rows), shares.sum(dim=1)


def _adam(gradient: Tensor, moment: tuple[Tensor, Tensor], step: int) -> Tensor:
    """Update the moments of a gradient and return Adam's step (Kingma and Ba, 2015)."""
    first, second = moment
    first.lerp_(gradient, 1 - _BETAS[0])
    second.lerp_(gradient.square(), 1 - _BETAS[1])
    return (first / (1 - _BETAS[0] ** step)) / ((second / (1 - _BETAS[1] ** step)).sqrt() + _TINY)


def chosen(logits: Tensor, truth: Tensor) -> list[Kind]:
    """Choose the kinds whose mean does best on images that they were not trained on: most right, then lowest loss.

    Args:
        logits: of all heads of `KINDS`, shape (heads, images, classes).
        truth: class of each image, shape (images,).
    """
    each = logits.view(len(KINDS), SEEDS, *logits.shape[1:]).mean(dim=1)
    order = sorted(range(len(KINDS)), key=lambda kind: _score(each[kind], truth), reverse=True)
    kept = order[:1]
    for kind in order[1:]:
        if _score(each[[*kept, kind]].mean(dim=0), truth) > _score(each[kept].mean(dim=0), truth):
            kept.append(kind)
    return [KINDS[kind] for kind in sorted(kept)]


def _score(logits: Tensor, truth: Tensor) -> tuple[int, float]:
    loss = torch.nn.functional.cross_entropy(logits, truth)
    return int((logits.argmax(dim=1) == truth).sum()), -float(loss)


def folded(
    heads: Heads, classes: NDArray[np.int64], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> LinearProbe:
    """Return the layer on features as they are that gives the mean of the heads' logits.

    Args:
        heads: on standardised features.
        classes: label number of each class.
        mean: of each feature.
        scale: that each was divided by; infinity for one that does not vary.
    """
    weight = heads.weight.cpu().double().mean(dim=0).numpy() / scale
    bias = heads.bias.cpu().double().mean(dim=0).numpy() - weight @ np.where(np.isinf(scale), 0.0, mean)
    return LinearProbe(classes, weight, bias)
