"""How much a run trains where that is left to its images: passes and batch size."""

from __future__ import annotations

import copy
import math

from hfft.arguments import FinetuneArguments
from hfft.arguments.training import Epochs

STEPS = 160
"""Optimizer steps that a small set gets, if `MOST_EPOCHS` allow it. Five passes over 1,000 images in batches of 32 make
as many, so that larger sets are trained as long as ever."""
LEAST_EPOCHS, MOST_EPOCHS = 5, 40
STEPS_PER_EPOCH = 8
"""A batch is made smaller until an epoch has so many steps."""
SMALLEST_BATCH = 8
"""But no smaller than this over all processes: batch norms that train need examples."""
LEAST_AT_ONCE = 2
"""And no smaller than this in each of them, for the same reason."""


def settle_amount(training: FinetuneArguments, images: int) -> FinetuneArguments:
    """Return the arguments with the number of epochs and the batch size that ``auto`` means; others as they are.

    Args:
        training: as given.
        images: to train on.
    """
    if not training.auto_epochs:
        return training
    settled = copy.copy(training)
    if training.max_steps > 0:  # which says how much is trained
        settled.num_train_epochs = float(training.num_train_epochs)
        return settled
    at_once = training.world_size * int(training.gradient_accumulation_steps)
    largest = max(max(images // STEPS_PER_EPOCH, SMALLEST_BATCH) // at_once, LEAST_AT_ONCE)
    settled.per_device_train_batch_size = min(training.per_device_train_batch_size, largest)
    per_epoch = math.ceil(images / (settled.per_device_train_batch_size * at_once))
    settled.num_train_epochs = Epochs.of(min(max(math.ceil(STEPS / per_epoch), LEAST_EPOCHS), MOST_EPOCHS))
    return settled


def describe_amount(given: FinetuneArguments, settled: FinetuneArguments, images: int) -> str:
    """Say in one line what `settle_amount` decided; nothing where it had nothing to decide.

    Args:
        given: before it.
        settled: after it.
        images: to train on.
    """
    if not settled.auto_epochs:
        return ""
    at_once = settled.world_size * int(settled.gradient_accumulation_steps)
    batch, epochs = settled.per_device_train_batch_size * at_once, float(settled.num_train_epochs)
    asked = given.per_device_train_batch_size * at_once
    capped = f" (in place of {asked}: at most an eighth of them, but {SMALLEST_BATCH})" if batch < asked else ""
    steps = math.ceil(epochs * math.ceil(images / batch))
    return (
        f"Epochs auto: {epochs:g} passes over {images:,} training images in batches of {batch}{capped}, about {steps:,}"
        " steps; --num_train_epochs N makes N passes in batches as given."
    )
