"""Shards as they are written: files of the safetensors library's own format, one for each content."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hfft.cache.shards import check_content, read_names, write_shard

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.mark.parametrize("name", DTYPES)
def test_every_number_format_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    numbers = torch.randint(0, 2 if name == "bool" else 100, (3, 5, 2), generator=torch.Generator().manual_seed(0))
    values = numbers.to(getattr(torch, name))
    file = write_shard(tmp_path, ["a", "b", "c"], {"x": values})
    assert torch.equal(load_file(file)["x"], values)
    assert load_file(file)["x"].dtype == values.dtype


def test_leaves_of_several_widths_and_orders(tmp_path: Path) -> None:
    leaves = {
        "bytes": torch.arange(21, dtype=torch.uint8).reshape(3, 7),
        "map": torch.randn(3, 4, 5, 2).movedim(1, -1),  # not as it lies in memory
        "label": torch.tensor([7, 8, 9]),
        "half": torch.randn(3, 1).half(),
    }
    file = write_shard(tmp_path, ["zebra", "ünïcode", ""], leaves)
    found = load_file(file)
    assert found.keys() == leaves.keys()
    assert all(torch.equal(found[key], value) for key, value in leaves.items())
    assert read_names(file) == ["zebra", "ünïcode", ""]
    check_content(file)
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == set(leaves)


def test_a_file_that_another_process_has_mapped_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows replaces no such file; what has its name has its content."""

    def refused(source: object, target: object) -> None:
        raise PermissionError(13, "Access is denied")

    leaves = {"x": torch.arange(6.0).reshape(3, 2)}
    file = write_shard(tmp_path, ["a", "b", "c"], leaves)
    monkeypatch.setattr("os.replace", refused)
    assert write_shard(tmp_path, ["a", "b", "c"], leaves) == file
    check_content(file)
    with pytest.raises(PermissionError):
        write_shard(tmp_path, ["a", "b", "d"], leaves)
    file.write_bytes(b"damaged")
    with pytest.raises(PermissionError):
        write_shard(tmp_path, ["a", "b", "c"], leaves)
    assert list(tmp_path.iterdir()) == [file]


def test_equal_content_is_one_file_whatever_the_order_of_its_leaves(tmp_path: Path) -> None:
    first, second = torch.randn(2, 3), torch.randn(2, 4)
    files = {
        write_shard(tmp_path, ["a", "b"], {"x": first, "y": second}),
        write_shard(tmp_path, ["a", "b"], {"y": second, "x": first.clone()}),
    }
    assert len(files) == len(list(tmp_path.iterdir())) == 1
    assert write_shard(tmp_path, ["b", "a"], {"x": first, "y": second}) not in files
