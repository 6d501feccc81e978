"""Results of a run written beside the earlier ones and put in their place at the end, so that they never mix."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hfft.errors import HfftError, OutputError, one_line
from hfft.output_folder import CLAIMS, CONFIG, RECORD, WEIGHTS, discard, foreign, listed, note, owned, remove

UNFINISHED = "unfinished"
"""Folder within the output folder that takes the weights of a run whose results could not be written."""

_STAGING = ".saving-"


@contextmanager
def staged_results(folder: Path, overwrite: bool = False, kept: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Give a new folder to write results into; on leaving, they replace what hfft itself wrote into `folder`.

    An error while they are written leaves `folder` as it was. They are put in place in such an order that at
    any moment a folder with ``hfft.json`` holds all results of one run, and a folder with ``config.json`` the
    whole checkpoint of one run: both go first and come last. In between no command takes it for a run.

    Args:
        folder: that exists.
        overwrite: replace files of other origin too, where the results take their names.
        kept: names of hfft's own files in `folder` that belong to the new results.

    Raises:
        OutputError: something cannot be written, or a file of other origin is in the way.
    """
    try:
        for left_behind in folder.glob(f"{_STAGING}*"):  # by a run that was killed
            shutil.rmtree(left_behind, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=_STAGING))
        try:
            yield staging
            _put_in_place(staging, folder, overwrite, kept)
        except HfftError as error:
            error.args = (str(error).replace(str(staging), str(folder)),)
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise OutputError(
            f"cannot write the results to {folder}: {reason}. Free some room and run again: cached activations are kept"
        ) from error


def _put_in_place(staging: Path, folder: Path, overwrite: bool, kept: frozenset[str]) -> None:
    last = (CONFIG, RECORD)
    new = {file.name for file in staging.iterdir()}
    # Weights in pieces and weights in one file would be taken for each other.
    in_the_way = foreign(folder, {*new, *(WEIGHTS if new.intersection(WEIGHTS) else ())})
    if in_the_way and not overwrite:
        raise OutputError(f"{folder} holds {listed(in_the_way)}, which appeared during the run and is not hfft's own")
    old = (owned(folder) | set(in_the_way)) - kept - {CLAIMS}
    note(folder, old | new)  # also after a kill, when the record is gone
    for name in (*(name for name in reversed(last) if name in old), *sorted(old.difference(last))):
        remove(folder / name)
    for name in (*sorted(new.difference(last)), *(name for name in last if name in new)):
        os.replace(staging / name, folder / name)
    if RECORD in new:
        (folder / CLAIMS).unlink(missing_ok=True)
    discard(folder / UNFINISHED)
