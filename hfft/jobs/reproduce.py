"""``hfft finetune --from_record hfft.json``: run the same run again, and say how the same it came out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hfft.arguments import RUN_ARGUMENTS, FinetuneArguments
from hfft.data.images import ImageSet
from hfft.errors import ArgumentError, DataError, HfftError
from hfft.files import sha256_of
from hfft.output_folder import RECORD
from hfft.parsing import flags_of
from hfft.report.record import RunRecord, read_record, read_record_here

FLAG = "--from_record"
# Where a run writes, or what it did to its folder, is not a part of what it computed.
_NOT_REPEATED = {
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "push_to_hub", "logging_dir", "run_name"),
    *("local_rank", "label_names", "disable_tqdm", "report_to"),
    *("do_train", "do_eval", "do_predict"),
}


def take_record(argv: Sequence[str]) -> tuple[list[str], RunRecord | None]:
    """Replace ``--from_record FILE`` by the flags of that run; flags beside it win.

    Returns:
        The flags, and the record; None where there is no such flag.

    Raises:
        ArgumentError: the flag has no value.
        HfftError: the record cannot be read.
    """
    places = [index for index, word in enumerate(argv) if word == FLAG or word.startswith(f"{FLAG}=")]
    if not places:
        return list(argv), None
    index = places[-1]
    _, given, path = argv[index].partition("=")
    if not given:
        path = argv[index + 1] if index + 1 < len(argv) else ""
    if not path or path.startswith("--"):
        raise ArgumentError(f"{FLAG} needs the hfft.json of a run")
    rest = [*argv[:index], *argv[index + (1 if given else 2) :]]
    file = Path(path).expanduser()
    record = read_record_here(file / RECORD if file.is_dir() else file)
    return [*record_flags(record), *rest], record


def record_flags(record: RunRecord, trust_remote_code: bool = False) -> list[str]:
    """Return the flags of a run, as far as they differ from the defaults.

    Args:
        record: of the run.
        trust_remote_code: what the command says; a record may be somebody else's, and nobody's code runs by its word.
    """
    values = given_options({**record.arguments, "trust_remote_code": trust_remote_code})
    if record.cache.mode != "off":  # a race on another machine may be won by another engine
        values["prefix_engine"] = record.cache.engine.partition(" ")[0]
    return flags_of(values)


def given_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults, without those that name the run's folder or its logs."""
    known = {item.name for group in RUN_ARGUMENTS for item in fields(group)}
    standard = _defaults()
    return {
        name: value
        for name, value in arguments.items()
        if name in known and name not in _NOT_REPEATED and value != standard.get(name) and value != []
    }


def compare(record: RunRecord, folder: Path) -> Iterator[str]:
    """Say line by line how a run in `folder` differs from the recorded one.

    Raises:
        HfftError: the new record cannot be read.
    """
    new = read_record(folder / RECORD)
    for name in sorted(record.versions.keys() | new.versions.keys()):
        before, after = record.versions.get(name, "none"), new.versions.get(name, "none")
        if before != after:
            yield f"Repeated with {name} {after}; the record has {before}."
    if record.base.sha256 != new.base.sha256:
        yield "The base weights are not those of the record."
    for split, digest in record.data.sha256.items():
        if new.data.sha256.get(split) != digest:
            yield f"The {split} images or labels are not those of the record."
    if record.files and record.files == new.files:
        yield "The weights are those of the record to the last bit."
    else:
        yield "The weights differ from those of the record."


def weights_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the checkpoint's weights, by name.

    Raises:
        HfftError: one cannot be read.
    """
    try:
        return {file.name: sha256_of(file) for file in sorted(folder.glob("model*.safetensors"))}
    except OSError as error:
        raise HfftError(f"cannot read {folder}: {error.strerror}") from error


def content_hash(images: ImageSet) -> str | None:
    """Return a SHA-256 over the content and the label of every image in order; None where a file is gone."""
    digest = hashlib.sha256()
    try:
        contents = images.contents()
    except DataError:  # a file of a set that was not trained on went away during the run
        return None
    for content, label in zip(contents, np.ascontiguousarray(images.labels), strict=True):
        digest.update(bytes.fromhex(content) + label.tobytes())
    return digest.hexdigest()


def _defaults() -> dict[str, Any]:
    """Every option's default as a record holds it."""
    found: dict[str, Any] = {}
    for group in RUN_ARGUMENTS[:-1]:
        found |= vars(group())
    return found | FinetuneArguments().to_dict()
