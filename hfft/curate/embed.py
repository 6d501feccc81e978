"""Write pooled features of images to a file that other tools read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from hfft.arguments import DataArguments, EmbedArguments, FeatureArguments
from hfft.bars import unsaid
from hfft.curate.encoder import load_encoder
from hfft.curate.features import HEAD_INPUT, read_features
from hfft.curate.gather import Gathered, gather, refuse_existing
from hfft.data.load import skipped_line
from hfft.data.probe import probe_images
from hfft.errors import DataError
from hfft.files import cannot_write, whole_file
from hfft.parsing import Place, parse_keywords, place_of
from hfft.report.plots import MapPlot, Panel, feature_map_figure
from hfft.surroundings import undisturbed
from hfft.trust.feature_map import Projection, projection
from hfft.wording import count_of


@dataclass(frozen=True, eq=False)  # arrays have no single answer to whether they are equal
class Embedding:
    """Pooled features of images, row by row.

    Args:
        model: that computed them.
        part: of the model: ``head input``, ``block 3`` and so on.
        values: shape (images, features), float32.
        images: a name for each, unique within its split: its path below the data set's folder.
        labels: as they are written; None where an image has none.
        splits: ``train``, ``validation``, ``test`` or ``unlabelled``.
    """

    model: str
    part: str
    values: NDArray[np.float32]
    images: tuple[str, ...]
    labels: tuple[str | None, ...]
    splits: tuple[str, ...]

    def __repr__(self) -> str:
        """Return a line: a name and a row for each image are too much for one."""
        return f"Embedding({self.model!r}, {self.part}, {_size(self)})"


def embed(
    use: FeatureArguments, data: DataArguments, options: EmbedArguments, place: str | None, say: Callable[[str], None]
) -> Embedding:
    """Compute pooled features and write them to ``options.output``.

    Args:
        use: the model.
        data: which images, where `place` does not say.
        options: which features, and where they go.
        place: a data set, the folder of a finished run, or a folder of images without labels.
        say: prints a line for the user.

    Raises:
        HfftError: images, model or file are not usable, and how to mend it.
    """
    target, plot = refuse_existing(options.output), refuse_existing(options.map, "--map")
    assert target is not None
    lay_out = projection(options.projection) if plot is not None else None
    gathered = gather(data, place)
    for note in gathered.notes:
        say(note)
    if data.on_bad_image == "skip":
        gathered = readable(gathered, say)
    encoder = load_encoder(use)
    found = read_features(encoder, gathered.sets, [options.block], say)
    splits = gathered.splits
    embedding = Embedding(
        encoder.name,
        options.block or HEAD_INPUT,
        np.concatenate([found[split].values for split in splits]),
        tuple(file for named in splits.values() for file in named.images.files),
        tuple(label for named in splits.values() for label in named.names),
        tuple(split for split, named in splits.items() for _ in named.names),
    )
    write_embedding(embedding, target)
    if plot is not None and lay_out is not None:
        said = [encoder.labels[row] for split in splits for row in found[split].logits.argmax(axis=1) if encoder.labels]
        draw_embedding(embedding, (encoder.labels, said), lay_out, plot)
    return embedding


@undisturbed()
def embed_with(
    place: Place | None = None, /, *, say: Callable[[str], None] | None = print, **options: Any
) -> Embedding:
    """Compute pooled features of images and write them to a file; this is ``hfft.embed``.

    Args:
        place: a data set, or the folder of a finished run; left out, the options name the images.
        say: prints a line for the user; None for silence.
        options: the flags of ``hfft embed`` under their own names: ``output``, and for example ``dataset_name``,
            ``model`` and ``block``.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: images, model or file are not usable, and how to mend it.

    Example:
        >>> found = hfft.embed(
        ...     dataset_name="photos/test", model="outputs/photos", output="photos.parquet", say=lambda line: None
        ... )
        >>> len(found.images) == len(found.values), sorted(set(found.labels))
        (True, ['blue', 'green', 'red'])
    """
    groups = (FeatureArguments, DataArguments, EmbedArguments)
    use, data, wanted = parse_keywords(groups, options, "hfft.embed")
    return embed(use, data, wanted, place_of(place, "hfft.embed"), say or unsaid)


def readable(gathered: Gathered, say: Callable[[str], None]) -> Gathered:
    """Leave out what cannot be read, and say so.

    Raises:
        DataError: nothing is left.
    """
    rows, lost = {}, []
    for split, images in gathered.sets.items():
        bad = {probe.row for probe in probe_images(images) if probe.problem}
        rows[split] = [row for row in range(len(images)) if row not in bad]
        lost += [images.files[row] for row in sorted(bad)]
    if not any(rows.values()):
        raise DataError(f"{gathered.name}: not one of its images can be read; see hfft check")
    if lost:
        say(skipped_line(lost))
    return gathered.select(rows)


def draw_embedding(
    embedding: Embedding, answers: tuple[Sequence[str], Sequence[str]], lay_out: Projection, target: str | Path
) -> MapPlot:
    """Draw images as points of a plane, coloured by label; return what was drawn.

    Args:
        embedding: of the images; the plane is that of the training images where there are some, else of all.
        answers: the classes that a model knows, and which of them it takes each image for, to cross out its mistakes
            on images that are labelled as one of them; both empty for no crosses.
        lay_out: makes the plane.
        target: the file, a PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    classes = sorted({label for label in embedding.labels if label is not None})
    labels = np.array([-1 if label is None else classes.index(label) for label in embedding.labels], np.int64)
    train = np.array([split == "train" for split in embedding.splits])
    points = lay_out(embedding.values, train if train.any() else np.ones_like(train))
    known, said = answers
    wrong = [label in known and label != answer for label, answer in zip(embedding.labels, said, strict=bool(known))]
    title = f"{embedding.part} of {Path(embedding.model).name}"
    panel = Panel(title, points[:0], labels[:0], points, labels)
    plot = MapPlot([panel], np.array(wrong or [False] * len(labels)))
    feature_map_figure(plot, classes, target)
    return plot


def describe_embedding(embedding: Embedding, target: str) -> str:
    """Say in one line what was written."""
    return f"Wrote {target}: {_size(embedding)} ({embedding.part} of {embedding.model})."


def _size(embedding: Embedding) -> str:
    rows, width = embedding.values.shape
    return f"{count_of(rows, 'image')}, {count_of(width, 'feature')} each"


def write_embedding(embedding: Embedding, target: Path) -> None:
    """Write features with names and labels as Parquet or safetensors, as the file's ending says.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        (_write_parquet if target.suffix.lower() == ".parquet" else _write_safetensors)(embedding, target)
    except (OSError, SafetensorError) as error:
        raise cannot_write(target, error) from error


def _write_parquet(embedding: Embedding, target: Path) -> None:
    """Columns ``image``, ``label``, ``split`` and ``features``, a list of one length."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(embedding.values.reshape(-1), pa.float32())
    table = pa.table(
        {
            "image": pa.array(embedding.images, pa.string()),
            "label": pa.array(embedding.labels, pa.string()),
            "split": pa.array(embedding.splits, pa.string()),
            "features": pa.FixedSizeListArray.from_arrays(flat, embedding.values.shape[1]),
        }
    )
    with whole_file(target) as partial:
        pq.write_table(table.replace_schema_metadata({"model": embedding.model, "part": embedding.part}), partial)


def _write_safetensors(embedding: Embedding, target: Path) -> None:
    """Tensors ``features`` and ``labels`` (-1 where there is none); names, classes and splits as JSON beside them."""
    from safetensors.numpy import save_file

    classes = sorted({label for label in embedding.labels if label is not None})
    numbers = {label: number for number, label in enumerate(classes)}
    labels = np.array([-1 if label is None else numbers[label] for label in embedding.labels], np.int64)
    beside = {"images": embedding.images, "splits": embedding.splits, "classes": classes}
    metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in beside.items()}
    with whole_file(target) as partial:
        save_file(
            {"features": np.ascontiguousarray(embedding.values), "labels": labels},
            partial,
            {**metadata, "model": embedding.model, "part": embedding.part},
        )
