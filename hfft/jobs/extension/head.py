"""The model of a run with a head for more classes, in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from hfft.cache.prepare import Prepared
from hfft.errors import ModelError
from hfft.jobs.extension.images import Joined
from hfft.models.checkpoint import load_folder
from hfft.models.head import class_axes
from hfft.training.baselines import HeadInputs
from hfft.training.setup import Setup
from hfft.trust.classes import ClassStatistics, extended_layer


def take_weights(setup: Setup, folder: Path) -> None:
    """Give a model with more classes the weights of a finished run; rows of its head for new classes are zeros.

    Args:
        setup: its model is changed; its first classes are those of the run.
        folder: of the run.

    Raises:
        ModelError: the run's model is not whole, or is another one.
    """
    model, _ = load_folder(folder, trust_remote_code=setup.settings.model.trust_remote_code)
    given, axes = model.state_dict(), class_axes(setup.model, len(setup.sets.labels))
    state = setup.model.state_dict()
    if given.keys() != state.keys():
        raise ModelError(f"{folder} holds another model than {setup.base.name}, which its record names as its base")
    for name, tensor in given.items():
        if name in axes and tensor.shape != state[name].shape:
            missing = [(0, wide - own) for wide, own in zip(state[name].shape, tensor.shape, strict=True)]
            tensor = nn.functional.pad(tensor, [edge for pair in reversed(missing) for edge in pair])
        state[name].copy_(tensor)


def extend_head(setup: Setup, prepared: Prepared, joined: Joined, before: ClassStatistics) -> ClassStatistics:
    """Give the head a row for each new class, in closed form; its other rows stay as they are.

    Args:
        setup: its model holds the run's weights.
        prepared: of the phase that would train, with the joined images.
        joined: which of the training images are new.
        before: statistics of the run's own training images.

    Returns:
        The statistics of all images.

    Raises:
        ModelError: the head is not one linear layer on the features, or does not fit the statistics.
    """
    reader = HeadInputs(setup, prepared.suffix)
    train = prepared.datasets["train"]
    linear = reader.linear
    if linear is None or not reader.gives_logits(train):
        raise ModelError(f"the head of this run cannot be extended: {reader.not_linear or 'it is not linear'}")
    if linear.in_features != before.means.shape[1]:
        raise ModelError(
            f"the statistics are of {before.means.shape[1]:,} features; the head reads {linear.in_features:,}"
        )
    classes, rows = len(setup.sets.labels), np.arange(joined.old["train"], len(setup.sets.train))
    features = reader.features(Subset(train, rows.tolist()), "new")
    after = before.widened(classes).joined(ClassStatistics.of(features, setup.sets.train.labels[rows], classes))
    old = len(before.counts)
    weight, bias = (parameter.detach()[:old].cpu().numpy() for parameter in (linear.weight, linear.bias))
    with torch.no_grad():
        for parameter, values in zip((linear.weight, linear.bias), extended_layer(weight, bias, after), strict=True):
            parameter.copy_(torch.from_numpy(values).to(parameter))
    return after
