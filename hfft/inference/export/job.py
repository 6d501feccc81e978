"""`hfft export`: each format is written beside its place, held against PyTorch, and put there if it passes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hfft.arguments import ExportArguments
from hfft.bars import bar, unsaid
from hfft.data.preprocessing import collate
from hfft.errors import HfftError, ModelError, OutputError, one_line
from hfft.files import cannot_write
from hfft.inference.classifier import Classifier, load_classifier
from hfft.inference.export.choice import check_formats
from hfft.inference.export.formats import (
    Format,
    Parts,
    int8_onnx,
    open_onnx,
    open_openvino,
    whole_onnx,
    write_openvino,
)
from hfft.inference.export.graphs import core_graph, front_graph, metadata_of, prove, tail_graph
from hfft.inference.export.images import RealImages, held_out_images, training_images
from hfft.inference.export.parity import Expected, Parity, compare, expected_of, require, write_parity
from hfft.inference.export.recipe import recipe_of
from hfft.inference.export.web import WEB
from hfft.models.checkpoint import make_output_folder
from hfft.output_folder import RECORD, claim, discard, listed, note, owned
from hfft.tasks.contract import needs_one_label

FORMATS = {
    "onnx": Format(whole_onnx, open_onnx),
    "openvino": Format(write_openvino, open_openvino),
    "int8": Format(int8_onnx, open_onnx, exact=False),
    "web": WEB,
}


@dataclass(frozen=True)
class Exported:
    """An export that was kept, and how close it is to PyTorch."""

    folder: Path
    parity: Parity
    note: str = ""

    def describe(self) -> str:
        """Say it in a line."""
        return f"Wrote {self.folder}: {self.parity.describe()}.{self.note}"


def export(output: str | Path, options: ExportArguments, say: Callable[[str], None] = unsaid) -> list[Exported]:
    """Export a finished model to one format or several, each checked against PyTorch on real images.

    Every format takes ``images``, uint8 of shape (batch, height, width, 3), of any size, and gives ``logits``,
    calibrated ``probabilities`` and, where the model came with its training images, ``unknown_score``: above 1 an image
    is unlike them.

    Args:
        output: a run's output folder, or a repository on the Hub.
        options: which formats, where to, and which images the check uses.
        say: told of each export in a line, as soon as it is there.

    Returns:
        What was written, in the order asked for.

    Raises:
        ArgumentError: a format is not written, or a package for it is missing.
        ModelError: the model cannot be loaded or exported, or the exported one differs too much; it is not kept.
        DataError: the images of the check cannot be read.
        OutputError: a folder cannot be written.
    """
    check_formats(options.to)
    formats = {name: FORMATS[name] for name in options.to}
    classifier = load_classifier(output, None, options.token, options.trust_remote_code, device="cpu")
    for name, format in formats.items():
        if format.one_label:
            needs_one_label(classifier.task, f"--to {name}")
    target = make_output_folder(_target(output, options.output_dir))
    try:
        for name in formats:
            refuse_others(target / name)
        images = held_out_images(classifier, options)
        parts = parts_of(classifier, images, lambda: _calibration(classifier, options))
        expected = expected_of(classifier, images)
        done = []
        for name, format in formats.items():
            done.append(_write(name, format, parts, expected, options.tolerance, target))
            say(done[-1].describe())
    finally:
        with suppress(OSError):  # there is something in it
            target.rmdir()
    return done


def parts_of(
    classifier: Classifier, images: RealImages, calibration: Callable[[], Iterable[NDArray[np.float32]]]
) -> Parts:
    """Make the graphs of a model.

    Args:
        classifier: on the CPU.
        images: real ones, of which the model is traced on one.
        calibration: as `Parts` takes it.

    Raises:
        ModelError: the model or its preprocessing cannot be exported.
    """
    recipe = recipe_of(classifier.pixels)
    prove(recipe, classifier.pixels)
    inputs = collate([classifier.pixels(images.open(0))] * 2)  # of one image, its number would become a constant
    return Parts(
        front_graph(recipe),
        core_graph(classifier, inputs),
        tail_graph(classifier),
        metadata_of(classifier),
        calibration,
        classifier,
        recipe,
    )


def refuse_others(folder: Path) -> None:
    """Make sure that a folder holds nothing but an earlier export.

    Raises:
        OutputError: naming what else is in it.
    """
    others = sorted(
        str(Path(place, name).relative_to(folder))
        for place, _, files in os.walk(folder)
        for name in files
        if name not in owned(Path(place))
    )
    if others or (folder.exists() and not folder.is_dir()):
        raise OutputError(
            f"{folder} holds {listed(others)}, not written by hfft; move what is yours, or choose another --output_dir"
            if others
            else f"{folder} is not a folder; choose another --output_dir"
        )


def _write(name: str, format: Format, parts: Parts, expected: Expected, tolerance: float, target: Path) -> Exported:
    most = tolerance if format.exact else None
    with _staged(target / name) as folder:
        format.write(parts, folder)
        try:
            parity = compare(name, format.open(folder), expected, folder, most)
        except HfftError:
            raise
        except Exception as error:  # runtimes raise types of their own, some of them not public
            raise ModelError(f"the {name} export does not run: {one_line(error)[:300]}") from error
        require(parity, most)
        write_parity(folder, parity)
    return Exported(target / name, parity, format.note(parts))


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write an export into; on leaving, it replaces an earlier one.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            yield staging
            for place, folders, files in os.walk(staging):
                note(Path(place), [*folders, *files])
            staging.chmod(0o755)  # mkdtemp keeps others out
            if (folder.parent.parent / RECORD).exists():  # so that it goes when the run is replaced
                claim(folder.parent.parent, [folder.parent.name])
            claim(folder.parent, [folder.name])
            discard(folder)
            os.replace(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _target(output: str | Path, wanted: str | None) -> Path:
    """Where exports go: into the run's folder, or the current one where the model is on the Hub."""
    if wanted is not None:
        return Path(wanted).expanduser()
    return Path(output) / "export" if Path(output).is_dir() else Path("export")


def _calibration(classifier: Classifier, options: ExportArguments) -> Iterator[NDArray[np.float32]]:
    images = training_images(classifier, options)
    for image in bar(images, total=images.count, desc="Calibration images", unit="image"):
        yield classifier.pixels(image)["pixel_values"].numpy()[None]
