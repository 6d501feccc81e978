"""Files of cached rows: what a shard's header says, whose it is, and whether it may be read and deleted.

A shard is a safetensors file that is named by the checksum of its content; its header lists the names of its rows.
Nothing else says what is cached, so writers cannot disagree. Nothing here but writing needs torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfft.files import sha256_of, whole_file

if TYPE_CHECKING:
    from torch import Tensor

ENDING = ".safetensors"
ROWS = "rows"
"""Key of the header's metadata: row names as a JSON list."""
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""What a header calls the number formats of torch."""
_LARGEST_HEADER = 100 * 2**20  # bytes, as safetensors has it


class DamagedError(Exception):
    """A shard is not what its name says."""


def checksum_of(*parts: bytes | memoryview) -> str:
    """Return the checksum that a shard is named by, given its content in parts."""
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return checksum.hexdigest()[:32]


def write_shard(folder: Path, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Path:
    """Write a shard whole, under the checksum of its content, and return its path.

    The safetensors library would copy each tensor twice on the way, and let no other thread run meanwhile: a training
    beside it took half as long again. Here checksum and file are made of the tensors where they are.

    Args:
        folder: of the store.
        names: of the rows.
        tensors: one row for each name.

    Raises:
        OSError: from the file system.
    """
    import torch

    # The widest first: every tensor then begins at a multiple of its numbers' bytes.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, object] = {"__metadata__": {ROWS: json.dumps(list(names))}}
    pieces, end = list[memoryview](), 0
    for key, tensor in ordered:
        piece = on_cpu(tensor, soon_gone=True).contiguous().flatten().view(torch.uint8).numpy().data
        header[key] = {
            "dtype": _DTYPES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + piece.nbytes],
        }
        pieces.append(piece)
        end += piece.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    content: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text, *pieces]
    file = folder / f"{checksum_of(*content)}{ENDING}"
    try:
        with whole_file(file) as partial, partial.open("wb") as stream:
            stream.writelines(content)
    except PermissionError:
        # Windows replaces no file that another process has mapped; here it holds the same.
        if not file.exists() or sha256_of(file)[:32] != file.stem:
            raise
    return file


def on_cpu(tensor: Tensor, soon_gone: bool = False) -> Tensor:
    """Fetch a tensor; from a GPU on a stream of its own, so that what the model computes meanwhile does not wait.

    Args:
        tensor: on any device.
        soon_gone: it is wanted for a moment, and may lie in memory that is pinned.
    """
    if tensor.device.type != "cuda":
        return tensor.cpu()
    import torch

    stream = torch.cuda.Stream(tensor.device)
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    with torch.cuda.stream(stream):
        fetched = tensor.to("cpu", non_blocking=True)  # into pinned memory
    stream.synchronize()
    return fetched if soon_gone else fetched.clone()


def check_content(file: Path) -> None:
    """Compare a shard with the checksum in its name.

    Raises:
        DamagedError: they differ.
        OSError: it cannot be read, which says nothing about it.
    """
    if sha256_of(file)[:32] != file.stem:
        raise DamagedError


def read_names(file: Path) -> list[str]:
    """Return the names of a shard's rows, from its header alone.

    Raises:
        DamagedError: it has no such header.
        OSError: it cannot be read, which says nothing about it.
    """
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 0 < size <= _LARGEST_HEADER:
            raise DamagedError
        header = stream.read(size)
    try:
        names = json.loads(json.loads(header)["__metadata__"][ROWS])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError from error
    if not isinstance(names, list):
        raise DamagedError
    return names


def trusted_files(folder: Path) -> list[Path]:
    """Return the shards of a folder that may be read, this user's own first.

    In a folder that every user of the machine may write, or that lies in one, only this user's own and root's are:
    elsewhere, whoever may write the folder was let in by its owner.
    """
    files = sorted(folder.glob(f"*{ENDING}"))
    if os.name != "posix":
        return files
    owners = {file: owner_of(file) for file in files}
    allowed = {os.geteuid(), 0} if _open_to_all(folder) or _open_to_all(folder.parent) else None
    read = [file for file in files if allowed is None or owners[file] in allowed]
    return sorted(read, key=lambda file: owners[file] != os.geteuid())


def owner_of(file: Path) -> int | None:
    """Return the user number of a file's owner, or None where it is gone."""
    try:
        return file.stat().st_uid
    except OSError:
        return None


def delete_own(file: Path) -> bool:
    """Delete a file that belongs to this user; return whether it is gone.

    Raises:
        OSError: it is this user's and cannot be deleted.
    """
    if os.name == "posix" and owner_of(file) not in (os.geteuid(), None):
        return False
    file.unlink(missing_ok=True)
    return True


def _open_to_all(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IWOTH)
