"""The activation cache: what the frozen prefix gave for every image, computed once.

An entry is a folder named by its fingerprint. It holds shards of rows in safetensors files whose names
end in the checksum of their content, so that one rename publishes a shard together with its checksum:
a killed filling leaves whole shards, and two fillings at once cannot disagree.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hfft.cache.placement import Placement
from hfft.errors import OutputError
from hfft.files import write_whole
from hfft.split.split import Leaf

FORMAT = 2
_SHARD_BYTES = 64 * 2**20
_SHARD_STEP = 64


@dataclass(frozen=True)
class CacheKey:
    """Everything that cached activations depend on; a change of any of it changes the fingerprint.

    Args:
        prefix: digest of the frozen weights and buffers.
        model: what the model computes with them: its configuration and code.
        boundary: name of the first module of the suffix.
        pixels: fingerprint of preprocessing and augmentation with its seed.
        data: fingerprint of the images.
        views: augmented views of each image.
        dtype: number format that rows are kept in, or ``auto``.
        precision: how the prefix computes: number formats (autocast, TF32), and whether all tokens of the last block.
        memory_format: of the convolutions, since it may change the last bit.
        software: versions of the libraries that compute, since they may change it too.
        engine: what computes the prefix, with version and precision.
    """

    prefix: str
    model: str
    boundary: str
    pixels: str
    data: str
    views: int
    dtype: str
    precision: str
    memory_format: str
    software: str
    engine: str = "torch"
    format: int = FORMAT

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Row:
    """How one leaf of the split is kept: a row of an array, perhaps narrower, channels last where it is a map."""

    leaf: Leaf
    dtype: torch.dtype
    channels_last: bool

    @property
    def bytes_per_image(self) -> int:
        """Bytes that one image takes in the cache."""
        return self.dtype.itemsize * torch.Size(self.leaf.shape).numel()

    def pack(self, values: Tensor) -> Tensor:
        """(batch, *leaf.shape) on any device -> contiguous rows on the CPU."""
        values = values.movedim(1, -1) if self.channels_last else values
        return values.to("cpu", self.dtype).contiguous()

    def unpack(self, rows: Tensor) -> Tensor:
        """Rows -> (batch, *leaf.shape), in the dtype that they are kept in."""
        return rows.movedim(-1, 1) if self.channels_last else rows


def make_rows(leaves: list[Leaf], cache_dtype: str, channels_last: bool) -> list[Row]:
    """Decide how each leaf is kept; only floating-point leaves are ever narrowed."""
    return [
        Row(
            leaf,
            leaf.dtype if cache_dtype == "auto" or not leaf.dtype.is_floating_point else getattr(torch, cache_dtype),
            channels_last and len(leaf.shape) == 3,
        )
        for leaf in leaves
    ]


class ActivationCache:
    """One entry: rows for every view of every image of one set.

    Row ``view * images + image`` belongs to that view of that image.

    Args:
        key: what the rows depend on.
        rows: how each leaf is kept.
        count: number of rows.
        placement: where.
    """

    def __init__(self, key: CacheKey, rows: list[Row], count: int, placement: Placement) -> None:
        self.key = key
        self.rows = rows
        self.count = count
        self.placement = placement
        self.shard_rows = _rows_per_shard(count, self.bytes_per_image)
        self.shards: dict[int, dict[str, Tensor]] = {}
        self.damaged: list[str] = []

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one row over all leaves."""
        return sum(row.bytes_per_image for row in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return self.count * self.bytes_per_image

    @property
    def folder(self) -> Path | None:
        """Folder of this entry on disk, or None where it lives in memory alone."""
        directory = self.placement.directory
        return None if directory is None else directory / self.key.fingerprint()

    def shard_range(self, shard: int) -> range:
        """Return the rows of a shard."""
        return range(shard * self.shard_rows, min(self.count, (shard + 1) * self.shard_rows))

    def shard_count(self) -> int:
        """Return how many shards hold all rows."""
        return -(-self.count // self.shard_rows)

    def load(self, shard: int, verify: bool = True) -> bool:
        """Read a shard and return whether it is there and whole.

        A file whose content does not match its checksum is deleted and named in `damaged`.

        Args:
            shard: its number.
            verify: compare the content with the checksum; left out where another process just did.
        """
        if shard in self.shards:
            return True
        for file in self._files(shard):
            tensors = self._read(file, verify)
            if tensors is not None:
                self.shards[shard] = tensors
                return True
            self.damaged.append(str(file))
            file.unlink(missing_ok=True)
        return False

    def written(self) -> list[int]:
        """Return the shards that have a file on disk."""
        return [shard for shard in range(self.shard_count()) if self._files(shard)]

    def discard(self) -> None:
        """Delete every shard.

        Raises:
            OutputError: a file cannot be deleted.
        """
        self.shards.clear()
        try:
            for shard in self.written():
                for file in self._files(shard):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot delete the activation cache at {self.folder}, whose rows are not what the model computes: "
                f"{error.strerror}. Delete it, or choose another --cache_dir, and run again"
            ) from error

    def touch(self) -> None:
        """Note that this entry is in use, since `prune` deletes what was used least recently."""
        if self.folder is not None and (self.folder / "entry.json").exists():
            os.utime(self.folder / "entry.json")

    def put(self, shard: int, values: Mapping[str, Tensor]) -> None:
        """Store a shard's rows: for each leaf's key a tensor of packed rows.

        Raises:
            OutputError: the disk is full or read-only; nothing half-written stays behind.
        """
        tensors = dict(values)
        written = self._write(shard, tensors) if self.folder is not None else None
        if self.placement.in_memory or written is None:
            self.shards[shard] = tensors
        else:
            self.shards[shard] = safetensors.torch.load_file(written)  # memory-mapped

    def bytes_on_disk(self) -> int:
        """Return the bytes of the shards that are on disk."""
        return sum(file.stat().st_size for shard in range(self.shard_count()) for file in self._files(shard)[:1])

    def gather(self, indices: list[int]) -> dict[str, Tensor]:
        """Return the leaves of some rows, (len(indices), *leaf.shape) each."""
        places = [divmod(index, self.shard_rows) for index in indices]
        gathered = {}
        for row in self.rows:
            stacked = torch.stack([self.shards[shard][row.leaf.key][offset] for shard, offset in places])
            gathered[row.leaf.key] = row.unpack(stacked)
        return gathered

    def _stem(self, shard: int) -> str:
        """Name a shard after its rows, so that it is only ever read as what it is."""
        rows = self.shard_range(shard)
        return f"{rows.start:09d}-{rows.stop:09d}"

    def _files(self, shard: int) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob(f"{self._stem(shard)}-*.safetensors"))

    def _read(self, file: Path, verify: bool) -> dict[str, Tensor] | None:
        """Return a file's tensors, or None where it is damaged."""
        checksum = file.stem.rpartition("-")[2]
        try:
            if self.placement.in_memory:
                content = file.read_bytes()
                return safetensors.torch.load(content) if _checksum_of(content) == checksum else None
            if verify:
                with file.open("rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest()[:32] != checksum:
                        return None
            return safetensors.torch.load_file(file)  # memory-mapped
        except (OSError, safetensors.SafetensorError):
            return None

    def _write(self, shard: int, tensors: dict[str, Tensor]) -> Path:
        assert self.folder is not None
        content = safetensors.torch.save(tensors)
        file = self.folder / f"{self._stem(shard)}-{_checksum_of(content)}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            entry = self.folder / "entry.json"
            if not entry.exists():
                write_whole(entry, json.dumps(self._description(), indent=2).encode())
            write_whole(file, content)
        except OSError as error:
            raise OutputError(
                f"cannot write the activation cache at {self.folder}: {error.strerror}; whole shards are kept. "
                "Free some disk, or choose --cache_dir, --cache memory or --cache off, and run again"
            ) from error
        return file

    def _description(self) -> dict[str, Any]:
        leaves = [{"key": r.leaf.key, "shape": r.leaf.shape, "dtype": str(r.dtype)} for r in self.rows]
        return {**asdict(self.key), "rows": self.count, "shard_rows": self.shard_rows, "leaves": leaves}


def _rows_per_shard(count: int, bytes_per_image: int) -> int:
    """A shard takes about 64 MiB, but there are at least 16 of them where rows allow, so that ranks can share."""
    by_size = max(_SHARD_STEP, _SHARD_BYTES // max(1, bytes_per_image))
    by_count = max(1, -(-count // 16))
    wanted = min(by_size, by_count)
    return -(-wanted // _SHARD_STEP) * _SHARD_STEP


def _checksum_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
