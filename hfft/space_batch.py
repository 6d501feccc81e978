"""Label many uploaded files, and write what was found as a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hfft.errors import DataError
from hfft.predict import Prediction
from hfft.space_models import Loaded
from hfft.uploads import Limits, open_upload

_THUMBNAIL = 400  # pixels of a picture's longer side in the gallery


def classify_files(
    loaded: Loaded, paths: Sequence[str], limits: Limits
) -> tuple[list[Prediction], list[tuple[Image.Image, str]]]:
    """Label files one by one; what cannot be read gets a row that says why.

    Returns:
        A prediction for each file, and the readable ones as small pictures with their captions.

    Raises:
        DataError: there are too many.
    """
    if len(paths) > limits.batch:
        raise DataError(f"{len(paths)} images are too many at a time; at most {limits.batch} are allowed")
    rows: list[Prediction] = []
    gallery: list[tuple[Image.Image, str]] = []
    for path in paths:
        name = Path(path).name
        try:
            image = open_upload(path, limits)
        except DataError as error:
            rows.append(Prediction(name, error=str(error)))
            continue
        (found,) = loaded.classify([image])
        rows.append(Prediction(name, found.label, found.probability, found.top, found.error))
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        gallery.append((image, f"{name}: {found.label} {found.probability:.1%}"))
    return rows, gallery


def write_sheet(path: Path, rows: Sequence[Prediction]) -> Path:
    """Write predictions as CSV with the columns file, label, probability (0 to 1) and error; return the path."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "probability", "error"])
        # A leading quote keeps a spreadsheet from running a file name as a formula.
        shown = [("'" + row.file if row.file[:1] in "=+-@" else row.file, row) for row in rows]
        writer.writerows([name, row.label, f"{row.probability:.6f}", row.error] for name, row in shown)
    return path
