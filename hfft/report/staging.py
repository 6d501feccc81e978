"""Results of a run written beside the earlier ones and put in their place at the end, so that they never mix."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hfft.errors import OutputError, one_line

RECORD, CONFIG = "hfft.json", "config.json"
RESULTS = (
    *(RECORD, CONFIG, "preprocessor_config.json", "README.md", "trace.csv", "predictions.csv"),
    *("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors", "delta.safetensors"),
    *("curves.png", "confusion_matrix.png", "reliability.png", "mistakes.png"),
    "model.onnx",  # an export of the weights that go
    *("all_results.json", "train_results.json", "eval_results.json", "test_results.json", "trainer_state.json"),
)
"""What a run may leave in its folder; whatever else lies there is the user's."""
UNFINISHED = "unfinished"
"""Folder within the output folder that takes the weights of a run whose results could not be written."""

_STAGING = ".saving-"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a new folder to write results into; on leaving, they replace those that `folder` holds.

    An error while they are written leaves `folder` as it was. They are put in place in such an order that at
    any moment a folder with ``hfft.json`` holds all results of one run, and a folder with ``config.json`` the
    whole checkpoint of one run: both go first and come last. In between no command takes it for a run.

    Args:
        folder: that exists.

    Raises:
        OutputError: something cannot be written.
    """
    try:
        for left_behind in folder.glob(f"{_STAGING}*"):  # by a run that was killed
            shutil.rmtree(left_behind, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=_STAGING))
        try:
            yield staging
            _put_in_place(staging, folder)
        except OutputError as error:
            raise OutputError(str(error).replace(str(staging), str(folder))) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise OutputError(
            f"cannot write the results to {folder}: {reason}. Free some room and run again: cached activations are kept"
        ) from error


def _put_in_place(staging: Path, folder: Path) -> None:
    last = (CONFIG, RECORD)
    old = {file.name for pattern in RESULTS for file in folder.glob(pattern)}
    for name in (*reversed(last), *sorted(old.difference(last))):
        (folder / name).unlink(missing_ok=True)
    new = {file.name for file in staging.iterdir()}
    for name in (*sorted(new.difference(last)), *(name for name in last if name in new)):
        os.replace(staging / name, folder / name)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
