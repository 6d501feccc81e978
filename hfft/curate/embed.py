"""Write pooled features of images to a file that other tools read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.arguments import DataArguments, EmbedArguments, FeatureArguments
from hfft.curate.encoder import load_encoder
from hfft.curate.features import HEAD_INPUT, read_features
from hfft.curate.gather import Gathered, gather, refuse_existing
from hfft.data.probe import probe_images
from hfft.errors import DataError, OutputError
from hfft.files import whole_file
from hfft.parsing import parse_keywords


@dataclass(frozen=True)
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
    target = refuse_existing(options.output)
    assert target is not None
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
    try:
        (_write_parquet if target.suffix.lower() == ".parquet" else _write_safetensors)(embedding, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}; free some room") from error
    return embedding


def embed_with(*, say: Callable[[str], None] = print, **options: Any) -> Embedding:
    """Compute pooled features of images and write them to a file; this is ``hfft.embed``.

    Args:
        say: prints a line for the user.
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
    return embed(use, data, wanted, None, say)


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


def skipped_line(files: Sequence[str]) -> str:
    """Say how many images cannot be read, and name a few."""
    return f"Skipped {len(files):,} images that cannot be read: {', '.join(files[:3])}{', ...' * (len(files) > 3)}"


def describe_embedding(embedding: Embedding, target: str) -> str:
    """Say in one line what was written."""
    rows, width = embedding.values.shape
    return f"Wrote {target}: {rows:,} images, {width:,} features each ({embedding.part} of {embedding.model})."


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
