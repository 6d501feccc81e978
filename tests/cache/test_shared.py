"""A cache folder that others use too: what is read, what is left alone, and what is never deleted."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hfft.cache.entries import list_entries, prune
from hfft.cache.placement import Placement
from hfft.cache.rows import make_rows
from hfft.cache.shards import ROWS, checksum_of
from hfft.cache.store import ActivationCache, CacheKey
from hfft.split.split import Leaf

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes of POSIX")
KEY = CacheKey("weights", "model", "boundary", "pixels", "auto", "None", "contiguous", "software")
NAMES = [f"image {number}" for number in range(4)]


def opened(directory: Path, names: list[str] = NAMES, in_memory: bool = False) -> ActivationCache:
    rows = make_rows([Leaf("x", (2,), torch.float32)], "auto", channels_last=True)
    return ActivationCache(KEY, rows, names, Placement(directory, in_memory))


def value(name: str) -> torch.Tensor:
    return torch.tensor([float(name.split()[1]), 0.5])


def filled(directory: Path, names: list[str] = NAMES) -> Path:
    """Write the rows that are missing, and return the newest shard."""
    cache = opened(directory, names)
    missing = cache.find(range(len(names)))
    before = set(shards(directory))
    cache.put(missing, {"x": torch.stack([value(names[row]) for row in missing])})
    return (set(shards(directory)) - before).pop()


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.safetensors"))


@pytest.fixture
def another_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes this process another user's, so that what it wrote is not its own any more."""
    return lambda: monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4321)


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_are_found_by_name_in_any_order_and_shard(tmp_path: Path, in_memory: bool) -> None:
    filled(tmp_path)
    wanted = ["image 3", "image 9", "image 0", "image 3"]
    cache = opened(tmp_path, wanted, in_memory)
    assert cache.bytes_on_disk() == 2 * cache.bytes_per_image  # "image 3" twice is one row
    assert cache.bytes == 3 * cache.bytes_per_image
    assert cache.find(range(4)) == [1]
    cache.put([1], {"x": value("image 9")[None]})
    again = opened(tmp_path, wanted, in_memory)
    assert again.find(range(4)) == []
    for each in (cache, again):
        assert torch.equal(each.gather([0, 1, 2, 3])["x"], torch.stack([value(name) for name in wanted]))


def test_equal_rows_of_two_writers_do_no_harm(tmp_path: Path) -> None:
    both = [opened(tmp_path, names) for names in (NAMES, NAMES[1:3])]
    for cache in both:  # neither has seen the other's
        cache.put(range(cache.count), {"x": torch.stack([value(name) for name in cache.names])})
    assert len(shards(tmp_path)) == 2
    assert opened(tmp_path).find(range(4)) == []
    assert list_entries(tmp_path)[0].rows == 4


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_shard_that_cannot_be_read_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, in_memory: bool
) -> None:
    shard = filled(tmp_path)
    cache, openings = opened(tmp_path, in_memory=in_memory), 0
    read = Path.open

    def fails(path: Path, *args: Any, **kwargs: Any) -> Any:
        nonlocal openings
        openings += path == shard
        if path == shard and openings > 1:  # the header can be read, the rest cannot
            raise OSError(number, os.strerror(number))
        return read(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails)
        assert cache.find(range(4)) == [0, 1, 2, 3]
    assert cache.unreadable == [f"{shard}: {os.strerror(number)}"]
    assert cache.damaged == []
    assert shard.exists()
    assert opened(tmp_path, in_memory=in_memory).find(range(4)) == []


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_another_users_damaged_shard_is_not_read_and_not_deleted(
    tmp_path: Path, another_user: Callable[[], None], content: bytes
) -> None:
    shard = filled(tmp_path)
    shard.write_bytes(content)
    another_user()
    cache = opened(tmp_path)
    assert cache.find(range(4)) == [0, 1, 2, 3]
    assert cache.damaged == [str(shard)]
    assert shard.exists()


def test_ones_own_damaged_shard_is_deleted(tmp_path: Path) -> None:
    shard = filled(tmp_path)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert opened(tmp_path).find(range(4)) == [0, 1, 2, 3]
    assert not shard.exists()


def test_rows_that_the_model_does_not_compute_are_deleted_only_if_they_are_ones_own(
    tmp_path: Path, another_user: Callable[[], None]
) -> None:
    unrelated = filled(tmp_path, ["image 8"])
    shard = filled(tmp_path)
    another_user()
    cache = opened(tmp_path)
    cache.discard()
    assert cache.find(range(4)) == [0, 1, 2, 3]  # still there, and not read any more
    assert shards(tmp_path) == sorted([shard, unrelated])


def test_ones_own_are_deleted_and_unrelated_ones_kept(tmp_path: Path) -> None:
    unrelated = filled(tmp_path, ["image 8"])
    filled(tmp_path)
    opened(tmp_path).discard()
    assert shards(tmp_path) == [unrelated]


@pytest.mark.parametrize("which", ["store", "cache"])
def test_where_everyone_may_write_other_users_shards_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    shard = filled(tmp_path)
    monkeypatch.setattr("hfft.cache.shards.owner_of", lambda file: 1234)
    assert opened(tmp_path).find(range(4)) == []  # a colleague's, in a folder that its owner keeps
    open_to_all = shard.parent if which == "store" else tmp_path
    open_to_all.chmod(0o1777)
    assert opened(tmp_path).find(range(4)) == [0, 1, 2, 3]
    monkeypatch.setattr("hfft.cache.shards.owner_of", lambda file: os.geteuid())
    assert opened(tmp_path).find(range(4)) == []


@pytest.mark.parametrize(
    "tensors",
    [
        {"x": torch.zeros(4, 3)},
        {"x": torch.zeros(3, 2)},
        {"x": torch.zeros(4, 2, dtype=torch.float64)},
        {"y": torch.zeros(4, 2)},
        {"x": torch.zeros(4, 2), "y": torch.zeros(4, 2)},
    ],
    ids=["shape", "rows", "dtype", "name", "more"],
)
def test_rows_of_other_shapes_are_not_read(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    shard = filled(tmp_path)
    shard.unlink()
    content = safetensors.torch.save(tensors, {ROWS: json.dumps(NAMES)})
    (shard.parent / f"{checksum_of(content)}.safetensors").write_bytes(content)
    cache = opened(tmp_path)
    assert cache.find(range(4)) == [0, 1, 2, 3]
    assert len(cache.damaged) == 1
    assert shards(tmp_path) == []


def test_files_are_as_readable_as_the_umask_lets_them_be(tmp_path: Path) -> None:
    earlier = os.umask(0o027)
    try:
        shard = filled(tmp_path)
    finally:
        os.umask(earlier)
    assert [stat.S_IMODE(file.stat().st_mode) for file in (shard, shard.parent / "entry.json")] == [0o640, 0o640]
    assert stat.S_IMODE(shard.parent.stat().st_mode) == 0o750


def test_a_read_only_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("utime", "unlink", "mkdir", "replace"):
        monkeypatch.setattr(os, name, refuse)
    cache = opened(tmp_path)
    cache.touch()
    assert cache.find(range(4)) == []
    assert torch.equal(cache.gather([2])["x"][0], value("image 2"))


def test_prune_leaves_other_users_files(tmp_path: Path, another_user: Callable[[], None]) -> None:
    shard = filled(tmp_path)
    another_user()
    assert prune(tmp_path) == []
    assert shard.exists()
    assert list_entries(tmp_path)[0].rows == 4


def test_prune_counts_what_it_deletes_beside_other_users_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would go on to stores that it need not delete, and say nothing of this one."""
    shared, own = filled(tmp_path / "shared"), filled(tmp_path / "own")
    (shared.parent / "others").write_bytes(bytes(1000))
    monkeypatch.setattr("hfft.cache.shards.owner_of", lambda file: -1 if file.name == "others" else os.geteuid())
    places = [file.parent for file in (shared, own)]
    folder = tmp_path / "cache"
    folder.mkdir()
    for number, (place, name) in enumerate(zip(places, ("old", "new"), strict=True)):
        os.rename(place, folder / name)
        for file in (folder / name).iterdir():
            os.utime(file, (number, number))
    sizes = {entry.folder.name: entry.bytes for entry in list_entries(folder)}
    (pruned,) = prune(folder, sum(sizes.values()) - 1)
    assert pruned.folder.name == "old"
    assert 0 < pruned.bytes < sizes["old"] - 1000 + 1
    assert {entry.folder.name: entry.rows for entry in list_entries(folder)} == {"old": 0, "new": 4}


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_are_disjoint_and_whole(tmp_path: Path, processes: int) -> None:
    cache = opened(tmp_path, [f"image {number}" for number in range(50)])
    shares = [cache.share(rank, processes) for rank in range(processes)]
    assert sorted(row for share in shares for row in share) == list(range(50))
    assert max(map(len, shares)) - min(map(len, shares)) <= 8
