"""One line for errors that nobody foresaw, so that a traceback is seen with ``--debug`` alone."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hfft.errors import DivergedError, HfftError

if TYPE_CHECKING:
    from hfft.job import Run


def describe_unforeseen(error: Exception) -> str:
    """Say what is wrong and what to do about it."""
    text = " ".join(str(error).split())
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no room is left on the disk ({text}); free some, or choose another folder, and run again"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"the system refuses ({text}); choose a folder that may be written"
    if "MemoryError" in kinds or "OutOfMemoryError" in kinds:
        return f"out of memory ({text}); try a smaller --per_device_train_batch_size or --image_size, or --cache disk"
    if isinstance(error, OSError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}; hfft did not foresee this: run again with --debug and report what it shows"


@contextmanager
def weights_kept(run: Run) -> Iterator[None]:
    """Save the trained weights if what comes after training fails or is interrupted.

    They go into a folder of their own, so that the results of an earlier run stay whole.

    Raises:
        HfftError: the one that was raised within, with a hint at the weights.
    """
    try:
        yield
    except BaseException as error:
        folder = _save(run)
        if isinstance(error, HfftError) and folder is not None:
            raise type(error)(f"{error}. The trained weights are saved in {folder}") from error
        raise


@contextmanager
def best_kept(run: Run) -> Iterator[None]:
    """Save the weights of the best epoch so far if the training diverges.

    Raises:
        DivergedError: the one that was raised within, with a hint at the weights.
    """
    try:
        yield
    except DivergedError as error:
        best = run.best
        if not best.tensors:
            raise
        run.model.load_state_dict(best.tensors, strict=False)
        folder = _save(run)
        if folder is None:
            raise
        raise DivergedError(f"{error}. The weights of epoch {best.epoch:g}, the best, are saved in {folder}") from error


def _save(run: Run) -> Path | None:
    from hfft.checkpoint import save_checkpoint
    from hfft.staging import UNFINISHED, replacing

    if run.settings.training.process_index:  # every process holds the same weights
        return None
    folder = run.folder / UNFINISHED
    try:
        folder.mkdir(exist_ok=True)
        with replacing(folder, overwrite=True) as staging:
            save_checkpoint(run.model, run.processor, staging)
    except Exception:  # the first error is the one to tell of
        return None
    return folder
