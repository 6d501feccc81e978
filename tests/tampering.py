"""Change what a cache of activations holds, as a key that knows too little would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from safetensors.torch import load_file

from hfft.cache.shards import ROWS, checksum_of, read_names


def tamper(entry: Path, change: Callable[[torch.Tensor], torch.Tensor], most: int | None = None) -> None:
    """Replace rows by others whose checksums are right.

    Args:
        entry: the folder of a store.
        change: what becomes of each tensor, shape (rows, ...).
        most: shards to change; all if not given.
    """
    for file in sorted(entry.glob("*.safetensors"))[:most]:
        changed = {key: change(value) for key, value in load_file(file).items()}
        content = safetensors.torch.save(changed, {ROWS: json.dumps(read_names(file))})
        file.unlink()
        (entry / f"{checksum_of(content)}.safetensors").write_bytes(content)
