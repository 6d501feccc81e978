"""Errors in a data loader's worker processes, handed over as what they are.

PyTorch rebuilds a worker's exception from the text of its traceback: its line would have to be read back out of that,
and what else it holds would be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from torch.utils.data import get_worker_info

from hfft.errors import HfftError

_FAILED = "failed"
_D = TypeVar("_D")
_R = TypeVar("_R")
_B = TypeVar("_B", bound=Mapping[str, Any])


def hand_over(items: Callable[[_D, _R], Any]) -> Callable[[_D, _R], Any]:
    """Let a data set's ``__getitems__`` return hfft's own errors, in a worker, for `received` to raise."""

    @wraps(items)
    def caught(self: _D, rows: _R) -> Any:
        try:
            return items(self, rows)
        except HfftError as error:
            if get_worker_info() is None:
                raise
            return {_FAILED: error}

    return caught


def received(batch: _B) -> _B:
    """Return a loader's batch.

    Raises:
        HfftError: a worker handed it over in place of the batch.
    """
    error = batch.get(_FAILED)
    if isinstance(error, HfftError):
        raise error
    return batch
