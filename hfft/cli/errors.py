"""One line for every error, so that a traceback is seen with ``--debug`` alone."""

from __future__ import annotations

import errno

from hfft.errors import one_line


def describe_unexpected(error: Exception) -> str:
    """Say what is wrong and what to do about it."""
    text = one_line(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no room is left on the disk ({text}); free some, or choose another folder, and run again"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"permission denied ({text}); choose a folder that may be written"
    if "MemoryError" in kinds or "OutOfMemoryError" in kinds:
        return f"out of memory ({text}); try a smaller --per_device_train_batch_size or --image_size, or --cache disk"
    if isinstance(error, OSError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}; unexpected error: run again with --debug and report what it shows"
