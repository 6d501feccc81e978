"""What a program around a call has and keeps: its random numbers, and whether its gradients are on."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import device


@contextmanager
def same_random_numbers(gpus: Iterable[int | device] = ()) -> Iterator[None]:
    """Within this context random numbers may be drawn; after it they go on as if none had been.

    Args:
        gpus: those that draw as well.
    """
    import numpy as np
    import torch

    state, python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        np.random.set_state(state)
        random.setstate(python)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within this context, or a function that it decorates, a job seeds, draws and learns as in a process of its own.

    Who searches at random for options would else draw the same ones after each run, which has seeded all there is; and
    a notebook may have switched gradients off.
    """
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with same_random_numbers(gpus), torch.inference_mode(False):  # which lets gradients be recorded, too
        yield
