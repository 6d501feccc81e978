"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename, so that `path` is either whole or absent.

    Raises:
        OSError: from the file system; the temporary file is removed.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def default_cache_dir() -> Path:
    """Return ``$HFFT_CACHE``, or ``~/.cache/hfft`` (under ``$XDG_CACHE_HOME`` where that is set)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HFFT_CACHE") or Path(home) / "hfft")
