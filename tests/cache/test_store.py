"""The activation cache: fingerprints, whole shards or none, damage, budgets, and several fillings at once."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tampering import tamper

from hfft.cache.entries import Entry, list_entries, prune
from hfft.cache.placement import Placement, choose_placement
from hfft.cache.rows import make_rows
from hfft.cache.store import ActivationCache, CacheKey
from hfft.cli import main
from hfft.errors import ArgumentError, OutputError
from hfft.files import write_whole
from hfft.split.split import Leaf

CPU = torch.device("cpu")
KEY = CacheKey("weights", "model", "boundary", "pixels", "auto", "None", "contiguous", "software")
LEAVES = [Leaf("map", (3, 2, 2), torch.float32), Leaf("ids", (5,), torch.int64)]
COUNT = 200


def make_cache(placement: Placement, key: CacheKey = KEY, dtype: str = "auto", count: int = COUNT) -> ActivationCache:
    names = [f"image {number}" for number in range(count)]
    return ActivationCache(key, make_rows(LEAVES, dtype, channels_last=True), names, placement)


def values(rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """What the prefix would give for these rows."""
    index = torch.tensor(list(rows))
    grid = torch.arange(12, dtype=torch.float32).reshape(3, 2, 2)
    return {"map": index[:, None, None, None] + grid / 16, "ids": index[:, None] * 10 + torch.arange(5)}


def put(cache: ActivationCache, rows: Sequence[int]) -> None:
    captured = values(rows)
    cache.put(rows, {row.leaf.key: row.pack(captured[row.leaf.key]) for row in cache.rows})


def fill(cache: ActivationCache) -> None:
    missing = cache.find(range(cache.count))
    for start in range(0, len(missing), cache.shard_rows):
        put(cache, missing[start : start + cache.shard_rows])


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(CacheKey)])
def test_fingerprint_changes_with_each_ingredient(name: str) -> None:
    value = getattr(KEY, name)
    change: dict[str, Any] = {name: value + 1 if isinstance(value, int) else value + "x"}
    changed = dataclasses.replace(KEY, **change)
    assert changed.fingerprint() != KEY.fingerprint()


@pytest.mark.parametrize(("in_memory", "on_disk"), [(True, True), (True, False), (False, True)])
def test_gather_gives_back_every_bit(tmp_path: Path, in_memory: bool, on_disk: bool) -> None:
    placement = Placement(tmp_path if on_disk else None, in_memory)
    cache = make_cache(placement)
    fill(cache)
    rows = [199, 0, 31, 32, 5, 5]
    for opened in [cache, make_cache(placement)] if on_disk else [cache]:
        fill(opened)
        found = opened.gather(rows)
        for key, expected in values(range(COUNT)).items():
            assert torch.equal(found[key], expected[rows])
        assert found["map"].is_contiguous(memory_format=torch.channels_last)


def test_a_second_opening_computes_nothing(tmp_path: Path) -> None:
    fill(make_cache(Placement(tmp_path, in_memory=False)))
    again = make_cache(Placement(tmp_path, in_memory=False))
    assert again.bytes_on_disk() == again.bytes
    assert again.find(range(COUNT)) == []


def test_a_killed_filling_goes_on_from_the_last_whole_shard(tmp_path: Path) -> None:
    first = make_cache(Placement(tmp_path, in_memory=True))
    put(first, range(64))
    put(first, range(64, 128))
    again = make_cache(Placement(tmp_path, in_memory=True))
    assert again.bytes_on_disk() == 128 * again.bytes_per_image
    assert again.find(range(COUNT)) == list(range(128, COUNT))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_shard_is_named_and_missing(tmp_path: Path, damage: str, in_memory: bool) -> None:
    placement = Placement(tmp_path, in_memory)
    cache = make_cache(placement)
    fill(cache)
    assert cache.folder is not None
    file = sorted(cache.folder.glob("*.safetensors"))[1]
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes({"truncate": bytes(content[:-20]), "flip": bytes(content), "empty": b""}[damage])
    again = make_cache(placement)
    missing = again.find(range(COUNT))
    assert len(missing) in (64, 8)
    assert again.damaged == [str(file)]
    assert not file.exists()
    put(again, missing)
    assert torch.equal(again.gather(missing)["ids"], values(missing)["ids"])


def test_int8_leaves_integers_alone() -> None:
    cache = make_cache(Placement(None, in_memory=True), dtype="int8")
    fill(cache)
    found = cache.gather([7, 8])
    assert torch.equal(found["ids"], values(range(7, 9))["ids"])
    assert found["map"].dtype == torch.float32
    torch.testing.assert_close(found["map"], values(range(7, 9))["map"], rtol=1 / 127, atol=1e-6)


def test_narrow_rows_halve_the_floats_and_leave_integers_alone(tmp_path: Path) -> None:
    cache = make_cache(Placement(None, in_memory=True), dtype="bfloat16")
    fill(cache)
    found = cache.gather([7, 8])
    assert found["map"].dtype == torch.bfloat16
    assert found["ids"].dtype == torch.int64
    assert cache.bytes_per_image == 12 * 2 + 5 * 8
    torch.testing.assert_close(found["map"].float(), values(range(7, 9))["map"], rtol=2**-7, atol=0)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(Placement(tmp_path, in_memory=False))
    put(cache, range(64))

    def no_room(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(OutputError, match=r"No space left.*--cache_dir"):
        put(cache, range(64, 128))
    monkeypatch.undo()
    assert cache.folder is not None
    assert {file.suffix for file in cache.folder.iterdir()} == {".json", ".safetensors"}
    again = make_cache(Placement(tmp_path, in_memory=False))
    assert again.find(range(128)) == list(range(64, 128))


def test_what_is_pruned_while_it_is_written_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(Placement(tmp_path, in_memory=False))
    put(cache, range(64))
    replace = os.replace
    pruned: list[Entry] = []

    def pruned_before(source: Path, target: Path) -> None:
        pruned.extend([] if pruned else prune(tmp_path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", pruned_before)
    put(cache, range(64, 128))
    assert len(pruned) == 1
    assert list_entries(tmp_path)[0].rows == 64
    found = cache.gather(list(range(128)))  # what was pruned is still held
    assert all(torch.equal(found[key], expected) for key, expected in values(range(128)).items())


def test_another_process_opens_rows_on_disk_itself(tmp_path: Path) -> None:
    """PyTorch would copy them to shared memory."""
    cache = make_cache(Placement(tmp_path, in_memory=False))
    fill(cache)
    assert len(pickle.dumps(cache)) < cache.bytes
    sent = ForkingPickler.dumps(cache)
    assert not any(tensor.is_shared() for shard in cache._shards for tensor in shard.values())
    found = ForkingPickler.loads(sent).gather(list(range(COUNT)))
    assert all(torch.equal(found[key], expected) for key, expected in values(range(COUNT)).items())


def _fill_in_process(folder: str, start: object) -> None:
    cache = make_cache(Placement(Path(folder), in_memory=False))
    start.wait()  # type: ignore[attr-defined]
    fill(cache)


def test_two_fillings_at_once_give_one_result(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    workers = [context.Process(target=_fill_in_process, args=(str(tmp_path), start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    cache = make_cache(Placement(tmp_path, in_memory=False))
    assert cache.find(range(COUNT)) == []
    assert cache.damaged == []
    found = cache.gather(list(range(COUNT)))
    assert all(torch.equal(found[key], expected) for key, expected in values(range(COUNT)).items())


# What a run finds there -------------------------------------------------------------------------------

Folder = Callable[..., Path]
HEAD = ["--policy", "head", "--num_train_epochs", "2", "--baselines", "none", "--figures", "false"]
HEAD += ["--disable_tqdm", "true"]
REUSED = "24 of 24 rows were there already"


def weights(train: Path, base: Path, output: Path, *flags: str) -> dict[str, torch.Tensor]:
    """The weights that a run on these images leaves behind."""
    given = ("--train_dir", str(train), "--model_name_or_path", str(base), "--output_dir", str(output))
    assert main(["finetune", *given, *HEAD, *flags]) == 0
    return load_file(output / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


def bitmaps(folder: Path, classes: tuple[str, ...]) -> Path:
    """Uncompressed images: the same names, sizes and times, whatever the colours of the classes."""
    random = np.random.default_rng(0)
    for channel, label in enumerate(classes):
        (folder / label).mkdir(parents=True)
        for number in range(8):
            pixels = random.integers(0, 120, (40, 36, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / label / f"{number}.bmp")
            os.utime(folder / label / f"{number}.bmp", (0, 0))
    return folder


def test_other_images_of_the_same_names_sizes_and_times_are_told_apart(
    pretrained: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = pretrained("vit")
    weights(bitmaps(tmp_path / "first", ("a", "b", "c")), base, tmp_path / "run1")
    second = bitmaps(tmp_path / "second", ("c", "b", "a"))
    cached = weights(second, base, tmp_path / "run2")
    assert REUSED in capsys.readouterr().out  # each image is known by its content, under whatever name it lies
    assert same(cached, weights(second, base, tmp_path / "run3", "--cache", "off"))


def test_equal_images_under_other_names_are_not_computed_again(
    pretrained: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, first = pretrained("vit"), bitmaps(tmp_path / "first", ("a", "b", "c"))
    weights(first, base, tmp_path / "run1")
    for file in first.rglob("*.bmp"):
        file.rename(file.with_name(f"again-{file.name}"))
    weights(first.rename(tmp_path / "moved"), base, tmp_path / "run2")
    assert REUSED in capsys.readouterr().out


def test_equal_weights_with_another_configuration_are_computed(
    pretrained: Folder, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, train = pretrained("vit"), image_folder()
    weights(train, base, tmp_path / "run1")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    cached = weights(train, base, tmp_path / "run2")
    assert REUSED not in capsys.readouterr().out
    assert same(cached, weights(train, base, tmp_path / "run3", "--cache", "off"))


@pytest.mark.parametrize(
    ("cache", "change"),
    [
        ("auto", lambda rows: rows * 1.01),
        ("disk", lambda rows: rows.flip(0)),
    ],
)
def test_rows_that_the_model_does_not_compute_are_computed_again(
    pretrained: Folder,
    image_folder: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cache: str,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    given = (image_folder(), pretrained("vit"))
    first = weights(*given, tmp_path / "run1", "--cache", cache)
    for entry in (tmp_path / "activations").glob("*/entry.json"):
        tamper(entry.parent, change)
    capsys.readouterr()
    assert same(first, weights(*given, tmp_path / "run2", "--cache", cache))
    out = capsys.readouterr().out
    assert out.count("did not match what the model computes now: computed again") == 2
    assert "0 of 24 rows were there already" in out


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("resnet", ()),
        ("vit", ("--bf16", "true", "--use_cpu", "true")),
        pytest.param("swin", ("--cache_dtype", "bfloat16"), marks=pytest.mark.slow),
        ("resnet", ("--cache_dtype", "int8")),
        pytest.param("vit", ("--cache_dtype", "int8"), marks=pytest.mark.slow),
        pytest.param("timm", ("--policy", "gradual"), marks=pytest.mark.slow),
    ],
)
def test_rows_computed_in_other_batches_raise_no_alarm(
    pretrained: Folder,
    image_folder: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    flags: tuple[str, ...],
) -> None:
    given = (image_folder(), pretrained(kind))
    weights(*given, tmp_path / "run1", *flags)
    capsys.readouterr()
    weights(*given, tmp_path / "run2", *flags)
    out = capsys.readouterr().out
    assert REUSED in out
    assert "did not match" not in out


class TestPlacement:
    """Budgets are checked before anything is filled."""

    @pytest.fixture(autouse=True)
    def _room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
        monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 3000})())

    @pytest.mark.parametrize(
        ("mode", "total", "limit", "processes", "expected"),
        [
            ("auto", 400, None, 1, (True, True)),
            ("auto", 600, None, 1, (True, False)),
            ("auto", 400, None, 2, (True, False)),
            ("auto", 800, 900, 1, (True, True)),
            ("disk", 1400, None, 1, (True, False)),
            ("memory", 400, None, 1, (False, True)),
        ],
    )
    def test_place(
        self, tmp_path: Path, mode: str, total: int, limit: int | None, processes: int, expected: tuple[bool, bool]
    ) -> None:
        placement = choose_placement(mode, (total, total), tmp_path, limit, processes, CPU)
        assert isinstance(placement, Placement)
        assert (placement.directory is not None, placement.in_memory) == expected

    @pytest.mark.parametrize(
        ("line", "group", "files"),
        [
            ("0::/slurm/job/step", "slurm/job", ("memory.max", "memory.current", "inactive_file")),
            ("0::/", "", ("memory.max", "memory.current", "active_file")),
            ("4:memory:/docker/0", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        ],
    )
    def test_a_container_or_a_job_has_less_memory_than_its_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, group: str, files: tuple[str, str, str]
    ) -> None:
        (tmp_path / "own").write_text(f"3:cpuset:/\n{line}\n")
        folder = tmp_path / "groups" / group
        (folder / "step").mkdir(parents=True)
        for name, text in zip((*files[:2], "memory.stat"), ("700", "600", f"anon 500\n{files[2]} 80\n"), strict=True):
            (folder / name).write_text(text)
        (folder / "step" / files[0]).write_text("max")
        monkeypatch.setattr("hfft.machine._OWN_CGROUPS", tmp_path / "own")
        monkeypatch.setattr("hfft.machine._CGROUPS", tmp_path / "groups")
        with pytest.raises(OutputError, match=r"memory allows 0.0 MB \(0.0 MB free"):
            choose_placement("memory", (91, 91), tmp_path, None, 1, CPU)
        assert choose_placement("memory", (90, 90), tmp_path, None, 1, CPU) == Placement(None, in_memory=True)

    def test_a_folder_that_may_not_be_entered_is_on_the_disk_around_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.stat

        def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
            if "closed/" in str(path):
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **kwargs)

        (tmp_path / "closed").mkdir()
        monkeypatch.setattr(os, "stat", stat)
        place = tmp_path / "closed" / "cache"
        assert choose_placement("disk", (9, 9), place, None, 1, CPU) == Placement(place, in_memory=False)

    def test_auto_says_how_much_it_would_have_needed(self, tmp_path: Path) -> None:
        reason = choose_placement("auto", (2_000_000, 2_000_000), tmp_path, None, 1, CPU)
        assert isinstance(reason, str)
        assert "needs 2.0 MB" in reason

    @pytest.mark.parametrize(("mode", "processes"), [("memory", 1), ("disk", 1), ("memory", 2)])
    def test_an_explicit_place_without_room_is_an_error(self, tmp_path: Path, mode: str, processes: int) -> None:
        with pytest.raises(OutputError, match=r"needs|one process"):
            choose_placement(mode, (5000, 5000), tmp_path, None, processes, CPU)

    @pytest.fixture
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> torch.device:
        """A GPU with 8,000 of 9,000 bytes free."""
        memory = type("Module", (), {"mem_get_info": staticmethod(lambda device: (8000, 9000))})
        monkeypatch.setattr(torch, "get_device_module", lambda device: memory)
        return torch.device("cuda")

    def test_the_gpu_holds_what_fits_half_of_what_it_has_free(self, tmp_path: Path, gpu: torch.device) -> None:
        assert choose_placement("gpu", (1400, 1400), tmp_path, None, 1, gpu) == Placement(tmp_path, True, gpu)
        assert choose_placement("gpu", (4000, 4000), tmp_path, None, 1, gpu) == Placement(None, True, gpu)
        with pytest.raises(OutputError, match="but the GPU's memory allows"):
            choose_placement("gpu", (4001, 0), tmp_path, None, 1, gpu)
        with pytest.raises(ArgumentError, match="--cache gpu needs a GPU"):
            choose_placement("gpu", (1, 1), tmp_path, None, 1, CPU)

    def test_a_gpu_that_shares_the_machines_memory_has_what_is_free_there(self, tmp_path: Path) -> None:
        """Apple's, of which PyTorch cannot say how much is free."""
        gpu = torch.device("mps")
        assert choose_placement("gpu", (500, 500), tmp_path, None, 1, gpu) == Placement(tmp_path, True, gpu)
        with pytest.raises(OutputError, match="but the GPU's memory allows"):
            choose_placement("gpu", (501, 0), tmp_path, None, 1, gpu)

    @pytest.mark.parametrize(
        ("total", "limit", "processes", "expected"),
        [
            (2000, None, 1, (True, True)),
            (2001, None, 1, (False, False)),
            (400, 400, 1, (True, True)),
            (401, 400, 1, (False, False)),
            (400, None, 2, (True, True)),
        ],
    )
    def test_auto_takes_a_quarter_of_a_gpu(
        self,
        tmp_path: Path,
        gpu: torch.device,
        total: int,
        limit: int | None,
        processes: int,
        expected: tuple[bool, bool],
    ) -> None:
        placement = choose_placement("auto", (total, 0), tmp_path, limit, processes, gpu)
        found = (False, False) if isinstance(placement, str) else (placement.device is not None, placement.in_memory)
        assert found == expected

    def test_several_processes_with_a_gpu_each_exchange_rows_on_disk(self, tmp_path: Path, gpu: torch.device) -> None:
        assert choose_placement("gpu", (1400, 1400), tmp_path, None, 2, gpu) == Placement(tmp_path, True, gpu)
        with pytest.raises(OutputError, match="but disk at"):
            choose_placement("gpu", (1600, 1600), tmp_path, None, 2, gpu)
        assert isinstance(choose_placement("auto", (1600, 1600), tmp_path, None, 2, gpu), str)

    def test_what_is_on_disk_already_needs_no_room(self, tmp_path: Path) -> None:
        assert choose_placement("disk", (5000, 0), tmp_path, None, 1, CPU) == Placement(tmp_path, False)


def test_list_and_prune_oldest_first(tmp_path: Path) -> None:
    entries = [dataclasses.replace(KEY, pixels=str(number)) for number in range(3)]
    for age, key in enumerate(entries):
        cache = make_cache(Placement(tmp_path, in_memory=False), key)
        fill(cache)
        assert cache.folder is not None
        for file in cache.folder.iterdir():
            os.utime(file, (1000 - age, 1000 - age))
    listed = list_entries(tmp_path)
    assert [entry.folder.name for entry in listed] == [key.fingerprint() for key in entries]
    assert all(entry.rows == COUNT and entry.boundary == "boundary" for entry in listed)
    (listed[0].folder / "more").write_bytes(bytes(listed[0].bytes))  # the newest one alone is too much
    deleted = prune(tmp_path, keep_bytes=2 * listed[0].bytes + listed[1].bytes)
    assert [entry.folder.name for entry in deleted] == [entries[2].fingerprint()]
    assert [entry.folder.name for entry in prune(tmp_path, listed[0].bytes)] == [
        entries[1].fingerprint(),
        entries[0].fingerprint(),
    ]
    assert list_entries(tmp_path) == []


def test_write_whole_keeps_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
