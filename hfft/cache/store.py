"""The activation cache: what the frozen prefix gave for every image, computed once.

A store is a folder named by the fingerprint of what computes its rows. A row is named by the content of its image and
the view of it, so that sets of images, runs, users and processes share rows. Shards of rows lie in safetensors files
that are named by the checksum of their content, so that one rename publishes a shard together with its checksum:
a killed filling leaves whole shards, and two fillings at once cannot disagree.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from hfft.cache.behind import WriteBehind
from hfft.cache.placement import Placement
from hfft.cache.rows import Row
from hfft.cache.shards import (
    DamagedError,
    check_content,
    checksum_of,
    delete_own,
    on_cpu,
    read_names,
    trusted_files,
    write_shard,
)
from hfft.errors import OutputError
from hfft.files import write_whole

FORMAT = 4
_T = TypeVar("_T")
_SHARD_BYTES = 64 * 2**20
_SHARD_STEP = 64
_SHARED_BLOCK = 8
"""Consecutive rows that one of several processes computes."""


@dataclass(frozen=True)
class CacheKey:
    """What a store's rows depend on besides image and view; a change of any of it changes the fingerprint.

    Args:
        prefix: digest of the frozen weights and buffers.
        model: what the model computes with them: its configuration and code.
        boundary: name of the first module of the suffix.
        pixels: fingerprint of preprocessing; augmentation is in the names of rows.
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
    dtype: str
    precision: str
    memory_format: str
    software: str
    engine: str = "torch"
    format: int = FORMAT

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


class ActivationCache:
    """The rows of a store that one set of images needs: every view of every image.

    Row ``view * images + image`` belongs to that view of that image; equal images share what is stored.

    Args:
        key: of the store.
        rows: how each leaf is kept.
        names: of the rows, by content and view; see `hfft.cache.prepare.ImagesAndPixels`.
        placement: where.

    Attributes:
        behind: writes to disk what is held in memory anyway, while its maker goes on; None: it is written at once.
        damaged: files that were not what their names say, or held other leaves or shapes than the model has.
        unreadable: files that could not be read, and why; they are left alone.
    """

    def __init__(self, key: CacheKey, rows: list[Row], names: Sequence[str], placement: Placement) -> None:
        self.key = key
        self.rows = rows
        self.names = names
        self.placement = placement
        self.behind: WriteBehind | None = None
        self.damaged: list[str] = []
        self.unreadable: list[str] = []
        self._unused: set[Path] = set()  # files that were found to be of no use
        self._shards: list[dict[str, Tensor]] = []
        self._mapped: list[Path] = []  # the files of shards that are not in memory
        self._places: dict[str, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what writes, and rows on disk, which a data loader's worker opens itself.

        A thread does not go to another process, and PyTorch would copy mapped rows to shared memory, all of them.
        """
        state = self.__dict__ | {"behind": None}
        return state if self.placement.in_memory else state | {"_shards": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the rows on disk again."""
        self.__dict__ |= state
        if not self.placement.in_memory:
            self._shards = [safetensors.torch.load_file(file) for file in self._mapped]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.names)

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one row over all leaves."""
        return sum(row.bytes_per_image for row in self.rows)

    @cached_property
    def distinct(self) -> list[int]:
        """The first row of each name, in order: equal views of equal images are one row to compute and to store."""
        return list({name: row for row, name in reversed(list(enumerate(self.names)))}.values())[::-1]

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return len(self.distinct) * self.bytes_per_image

    @property
    def folder(self) -> Path | None:
        """Folder of the store on disk, or None where rows live in memory alone."""
        directory = self.placement.directory
        return None if directory is None else directory / self.key.fingerprint()

    @property
    def shard_rows(self) -> int:
        """Rows of a shard: about 64 MiB of them, but so few that 16 shards hold all where rows allow.

        A killed filling loses a shard at most.
        """
        by_size = max(_SHARD_STEP, _SHARD_BYTES // max(1, self.bytes_per_image))
        wanted = min(by_size, max(1, -(-len(self.distinct) // 16)))
        return -(-wanted // _SHARD_STEP) * _SHARD_STEP

    def share(self, rank: int, processes: int) -> list[int]:
        """Return the rows that one of several processes sees to, whatever is there already."""
        return [row for place, row in enumerate(self.distinct) if place // _SHARED_BLOCK % processes == rank]

    def find(self, rows: Iterable[int], verify: bool = True) -> list[int]:
        """Look for rows on disk; return those that are not there.

        A file whose content does not match its checksum is named in `damaged`, and deleted if it is this user's.

        Args:
            rows: their numbers.
            verify: compare contents with checksums; left out where another process just did.
        """
        rows = list(rows)
        wanted = {self.names[row] for row in rows} - self._places.keys()
        for file in self._files():
            if not wanted:
                break
            wanted -= self._take(file, wanted, verify)
        return [row for row in rows if self.names[row] not in self._places]

    def found(self) -> list[list[int]]:
        """Return the rows that were found, by shard."""
        shards: list[list[int]] = [[] for _ in self._shards]
        for row, name in enumerate(self.names):
            if name in self._places:
                shards[self._places[name][0]].append(row)
        return [shard for shard in shards if shard]

    def discard(self) -> None:
        """Forget all rows, and delete this user's shards that hold any of them; others' are not read any more.

        Raises:
            OutputError: a file cannot be deleted.
        """
        wanted = set(self.names)
        self._shards, self._mapped, self._places = [], [], {}
        try:
            for file in self._files():
                if not wanted.isdisjoint(self._names_in(file)):
                    delete_own(file)
                    self._unused.add(file)
        except OSError as error:
            raise OutputError(
                f"cannot delete the activation cache at {self.folder}, whose rows are not what the model computes: "
                f"{error.strerror}. Delete it, or choose another --cache_dir, and run again"
            ) from error

    def touch(self) -> None:
        """Note that this store is in use, since `prune` deletes what was used least recently."""
        if self.folder is not None:
            with suppress(OSError):  # not there yet, another's, or read-only
                os.utime(self.folder / "entry.json")

    def put(self, rows: Sequence[int], values: Mapping[str, Tensor], computing: float = 0.0) -> None:
        """Store a shard of rows.

        Args:
            rows: their numbers.
            values: for each leaf's key a tensor of packed rows.
            computing: seconds that they took to compute.

        Raises:
            OutputError: the disk is full or read-only; nothing half-written stays behind.
        """
        names = [self.names[row] for row in rows]
        offsets = {name: offset for offset, name in enumerate(names)}
        if not self.placement.in_memory:
            file = self._write(names, values)
            self._add(safetensors.torch.load_file(file), offsets)  # memory-mapped
            self._mapped.append(file)
            return
        held = self._add(values, offsets)
        if self.folder is None:
            return
        write = partial(self._write, names, held)
        if self.behind is None:
            write()
        else:
            self.behind(write, computing, len(rows) * self.bytes_per_image)

    def bytes_on_disk(self) -> int:
        """Return the bytes of the rows that are on disk, by the headers of their shards."""
        wanted, there = set(self.names), set[str]()
        for file in self._files():
            there |= wanted.intersection(self._names_in(file))
        return self.bytes_per_image * len(there)

    def gather(self, indices: list[int]) -> dict[str, Tensor]:
        """Return the leaves of some rows, (len(indices), *leaf.shape) each, on the device that holds them."""
        places = [self._places[self.names[index]] for index in indices]
        gathered = {}
        for row in self.rows:
            stacked = torch.stack([self._shards[shard][row.leaf.key][offset] for shard, offset in places])
            gathered[row.leaf.key] = row.unpack(stacked)
        return gathered

    def _files(self) -> list[Path]:
        return [] if self.folder is None else trusted_files(self.folder)

    def _names_in(self, file: Path) -> list[str]:
        """Return the names of a file's rows; none of one that cannot be used. They are not kept: stores are large."""
        return [] if file in self._unused else self._attempt(file, lambda: read_names(file)) or []

    def _take(self, file: Path, wanted: set[str], verify: bool) -> set[str]:
        """Open a file if it holds rows that are wanted; return the names of those that it gave."""
        names = self._names_in(file)
        offsets = {name: offset for offset, name in enumerate(names) if name in wanted}
        tensors = self._attempt(file, lambda: self._read(file, verify, len(names))) if offsets else None
        if tensors is None:
            return set()
        if self.placement.in_memory:  # what others put beside them is not held
            chosen = torch.tensor(list(offsets.values()))
            tensors = {key: value[chosen] for key, value in tensors.items()}
            offsets = {name: offset for offset, name in enumerate(offsets)}
        else:
            self._mapped.append(file)
        self._add(tensors, offsets)
        return set(offsets)

    def _attempt(self, file: Path, read: Callable[[], _T]) -> _T | None:
        """Read of a file, or note why that is not possible. An error of the disk or of rights is not damage."""
        try:
            return read()
        except FileNotFoundError:  # pruned just now
            return None
        except OSError as error:
            self.unreadable.append(f"{file}: {error.strerror or error}")  # safetensors gives text alone
        except (DamagedError, safetensors.SafetensorError):
            self.damaged.append(str(file))
            with suppress(OSError):
                delete_own(file)
        self._unused.add(file)
        return None

    def _read(self, file: Path, verify: bool, count: int) -> dict[str, Tensor]:
        tensors = self._load(file, verify)
        shapes = {row.leaf.key: (row.dtype, (count, *row.packed_shape)) for row in self.rows}
        if {key: (value.dtype, tuple(value.shape)) for key, value in tensors.items()} != shapes:
            raise DamagedError
        return tensors

    def _load(self, file: Path, verify: bool) -> dict[str, Tensor]:
        if self.placement.in_memory:
            content = file.read_bytes()
            if verify and checksum_of(content) != file.stem:
                raise DamagedError
            return safetensors.torch.load(content)
        if verify:
            check_content(file)
        return safetensors.torch.load_file(file)  # memory-mapped

    def _add(self, tensors: Mapping[str, Tensor], offsets: Mapping[str, int]) -> dict[str, Tensor]:
        """Hold a shard, and return it as it is held."""
        device = self.placement.device
        held = {key: on_cpu(value) if device is None else value.to(device) for key, value in tensors.items()}
        self._places |= {name: (len(self._shards), offset) for name, offset in offsets.items()}
        self._shards.append(held)
        return held

    def _write(self, names: list[str], tensors: Mapping[str, Tensor]) -> Path:
        try:
            try:
                return self._write_once(names, tensors)
            except FileNotFoundError:  # `prune` deleted the folder meanwhile
                return self._write_once(names, tensors)
        except OSError as error:
            raise OutputError(
                f"cannot write the activation cache at {self.folder}: {error.strerror}; whole shards are kept. "
                "Free some disk, or choose --cache_dir, --cache memory or --cache off, and run again"
            ) from error

    def _write_once(self, names: list[str], tensors: Mapping[str, Tensor]) -> Path:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = self.folder / "entry.json"
        if not entry.exists():
            write_whole(entry, json.dumps(self._description(), indent=2).encode())
        return write_shard(self.folder, names, tensors)

    def _description(self) -> dict[str, Any]:
        leaves = [{"key": r.leaf.key, "shape": r.leaf.shape, "dtype": str(r.dtype)} for r in self.rows]
        return {**asdict(self.key), "leaves": leaves}
