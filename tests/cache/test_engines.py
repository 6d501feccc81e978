"""What computes the frozen prefix: the race and its conditions, the key, and what a second run finds."""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import Job, equal, losses, record, run, weights
from torch import Tensor

from hfft.arguments import CacheArguments
from hfft.cache import engines
from hfft.cache.engines import EngineUse, Question, choose_engine
from hfft.cache.entries import list_entries, prune
from hfft.errors import ArgumentError
from hfft.files import default_cache_dir
from hfft.jobs.reproduce import record_flags
from hfft.report.record import read_record
from hfft.split.engines import Engine, EngineError
from hfft.split.split import Leaf

ONNX = ("--prefix_engine", "onnxruntime")
CPU = torch.device("cpu")
BATCH = {"pixel_values": torch.ones(8, 2)}


@dataclass(frozen=True)
class Stub:
    """Stands for a prefix or for an engine: it gives its inputs times a factor, and takes some time by the clock."""

    clock: list[float]
    seconds: float
    factor: float = 1.0
    autocast: torch.dtype | None = None
    name: str = "torch"
    bf16: bool = False
    device: torch.device = CPU
    lanes: int = 1

    @property
    def split(self) -> SimpleNamespace:
        return SimpleNamespace(leaves=[Leaf("leaf", (2,), self.autocast or torch.float32)])

    def capture(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        self.clock[0] += self.seconds
        strayed = 1.05 if self.autocast else 1.0
        return {"leaf": inputs["pixel_values"] * self.factor * strayed}


def race(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rows: int,
    stubs: Mapping[str, tuple[float, float] | EngineError],
    autocast: torch.dtype | None = None,
) -> tuple[EngineUse, Any]:
    """Choose between stubs on a clock that only they move; the machine's limit is 0 seconds."""
    clock = [0.0]
    tried: list[str] = []

    def export(question: Question, name: str, inputs: Any) -> Any:
        tried.append(name)
        found = stubs[name]
        if isinstance(found, EngineError):
            raise found
        seconds, factor = found
        return Stub(clock, seconds, factor, name=name, bf16=autocast is not None)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(engines, "_export", export)
    monkeypatch.setattr(engines, "_least_seconds", lambda prefix, inputs: 0.0)
    monkeypatch.setattr(engines, "usable", lambda device: [name for name in stubs if name != "torch"])
    monkeypatch.setattr(engines, "version_of", lambda name: "1.0")
    monkeypatch.setattr(Question, "folder", tmp_path / "engines")
    monkeypatch.setattr(engines, "_record", lambda question, use: None)
    found = stubs["torch"]
    assert isinstance(found, tuple)
    prefix: Any = Stub(clock, *found, autocast=autocast)
    question = Question(prefix, "weights", lambda: BATCH, lambda: rows, CacheArguments(), tmp_path)
    return choose_engine(question, 0, 1).use, tried


def test_the_fastest_within_the_tolerance_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stubs = {"torch": (0.8, 1.0), "onnxruntime": (0.4, 1.00001), "openvino": (0.2, 1.00002)}
    use, tried = race(monkeypatch, tmp_path, 10_000, stubs)
    assert (use.name, use.label, tried) == ("openvino", "openvino 1.0 float32", ["onnxruntime", "openvino"])
    assert use.difference == pytest.approx(2e-5, rel=0.02)
    assert use.milliseconds == pytest.approx(25)
    assert use.torch_milliseconds == pytest.approx(100)


@pytest.mark.parametrize("factor", [1.001, float("nan"), float("inf")])
def test_an_engine_out_of_tolerance_never_wins(factor: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use, tried = race(monkeypatch, tmp_path, 10_000, {"torch": (0.8, 1.0), "onnxruntime": (0.001, factor)})
    assert (use.label, tried) == ("torch", ["onnxruntime"])
    assert "its activations differ by" in use.describe()


def test_under_bf16_an_engine_in_float32_is_held_against_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stubs = {"torch": (0.8, 1.0), "onnxruntime": (0.4, 1.00001)}
    use, _ = race(monkeypatch, tmp_path, 10_000, stubs, torch.bfloat16)
    assert use.label == "onnxruntime 1.0 float32"
    assert use.difference <= use.tolerance == torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("strays", [True, False])
@pytest.mark.parametrize(
    ("name", "autocast"), [("openvino", "bfloat16"), ("compile", "bfloat16"), ("compile", "float16")]
)
def test_an_engine_in_a_narrow_format_may_stray_as_far_as_pytorchs_own(
    name: str, autocast: str, strays: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stubs = {"torch": (0.8, 1.0), name: (0.2, 1.06 if strays else 1.04)}
    use, _ = race(monkeypatch, tmp_path, 1_000_000, stubs, getattr(torch, autocast))
    assert use.label == ("torch" if strays else f"{name} 1.0 {autocast}")


def test_an_engine_that_is_not_faster_or_fails_never_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stubs: dict[str, tuple[float, float] | EngineError] = {"torch": (0.8, 1.0), "onnxruntime": (0.79, 1.0)}
    stubs["openvino"] = EngineError("no such operator")
    use, _ = race(monkeypatch, tmp_path, 10_000, stubs)
    assert use.describe() == "Prefix engine: torch, openvino cannot be used: no such operator."


@pytest.mark.parametrize(("rows", "tried"), [(199, []), (200, ["onnxruntime"]), (200_000, ["onnxruntime", "compile"])])
def test_what_is_tried_depends_on_the_rows_to_compute(
    rows: int, tried: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # 100 ms an image: 200 rows may save 14 s, more than onnxruntime takes to set up and less than a compiler does.
    stubs = {"torch": (0.8, 1.0), "onnxruntime": (0.4, 1.0), "compile": (0.7, 1.0)}
    assert race(monkeypatch, tmp_path, rows, stubs)[1] == tried


def test_a_race_that_cannot_pay_is_not_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use, tried = race(monkeypatch, tmp_path, 1000, {"torch": (0.08, 1.0), "onnxruntime": (0.01, 1.0)})
    assert (use.name, tried) == ("torch", [])
    assert "longer than it saves for 1000 images" in use.describe()


@pytest.mark.parametrize("kind", ["resnet", "vit", "swin", "timm"])
def test_a_run_with_an_engine_comes_out_as_with_torch(kind: str, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    plain, fast = job(kind, "plain"), job(kind, "fast", *ONNX)
    assert "Prefix engine: onnxruntime" in capsys.readouterr().out
    assert losses(fast) == pytest.approx(losses(plain), abs=1e-3)
    assert record(plain)["cache"]["engine"] == "torch"
    cache = record(fast)["cache"]
    assert cache["engine"].startswith("onnxruntime ")
    assert 0 <= cache["engine_difference"] <= cache["engine_tolerance"] == 1e-4
    assert cache["hits"] == 0  # rows of another engine are not taken for one's own
    assert cache["engine"] in (fast / "README.md").read_text()


def test_a_second_run_sets_nothing_up(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    first = job("resnet", "first", *ONNX)
    monkeypatch.setattr(engines, "_export", None)
    monkeypatch.setattr(Engine, "capture", None)  # the kept rows are held against PyTorch's
    second = job("resnet", "second", *ONNX)
    assert record(second)["cache"]["hits"] == 24
    assert equal(weights(first), weights(second))


def test_an_engine_takes_images_of_one_size(job: Job) -> None:
    """What a pooled boundary gives out does not tell sizes apart."""
    for size in (32, 48):
        folder = job("resnet", f"size{size}", *ONNX, "--policy", "head", "--image_size", size)
        assert record(folder)["cache"]["engine"].startswith("onnxruntime ")


@pytest.mark.parametrize("kind", ["resnet", "timm"])
def test_rows_of_a_float32_engine_are_found_again_under_bf16(kind: str, job: Job) -> None:
    first, second = (job(kind, name, *ONNX, "--bf16", "true") for name in ("first", "second"))
    assert [record(folder)["cache"]["hits"] for folder in (first, second)] == [0, 24]
    assert "float32" in record(first)["cache"]["engine"]
    assert equal(weights(first), weights(second))


def test_new_rows_are_computed_by_what_was_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    first = job("resnet", "first", *ONNX)
    for entry in default_cache_dir().glob("*/entry.json"):
        shutil.rmtree(entry.parent)
    monkeypatch.setattr(engines, "_export", None)
    second = job("resnet", "second", *ONNX)
    assert record(second)["cache"]["hits"] == 0
    assert equal(weights(first), weights(second))


def test_phases_begin_with_an_engines_activations(job: Job) -> None:
    flags = ("--policy", "lp_ft", "--num_train_epochs", 2, *ONNX)
    folder = job("resnet", "run", *flags)
    assert record(folder)["cache"]["engine"].startswith("onnxruntime")
    keys = {entry.boundary for entry in list_entries(default_cache_dir()) if entry.rows}
    assert len(keys) == 2
    assert equal(weights(folder), weights(job("resnet", "memory", *flags, "--cache", "memory")))


def test_a_failing_export_falls_back_to_torch_in_a_line(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no such\noperator")

    plain = job("resnet", "plain")
    monkeypatch.setattr("hfft.split.engines._traced", fail)
    folder = job("resnet", "run", *ONNX)
    assert "Prefix engine: torch, onnxruntime cannot be used: no such operator." in capsys.readouterr().out
    assert record(folder)["cache"]["engine"] == "torch"
    assert equal(weights(plain), weights(folder))


@pytest.mark.parametrize(
    ("error", "lasting"), [(OSError(errno.ENOSPC, "No room"), False), (RuntimeError("no operator"), True)]
)
def test_an_engine_that_failed_for_want_of_room_is_tried_again(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, lasting: bool
) -> None:
    def fail(*args: Any) -> None:
        raise error

    with monkeypatch.context() as full:
        full.setattr("hfft.split.engines._traced", fail)
        job("resnet", "full", *ONNX)
    assert "onnxruntime cannot be used" in capsys.readouterr().out
    again = job("resnet", "again", *ONNX)
    assert record(again)["cache"]["engine"].startswith("torch" if lasting else "onnxruntime ")


def test_an_engine_that_differs_too_much_is_refused_even_where_it_is_asked_for(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = job("resnet", "run", *ONNX, "--engine_tolerance", "1e-30")
    assert "more than 1e-30" in capsys.readouterr().out
    assert record(folder)["cache"]["engine"] == "torch"


def test_exact_is_torch(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(job("resnet", "run", "--exact", "true"))["cache"]["engine"] == "torch"
    assert run("--exact", "true", *ONNX) == 2
    assert "--exact computes with torch" in capsys.readouterr().err


def test_an_engine_without_a_cache_is_said_to_be_unused(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job("resnet", "run", *ONNX, "--cache", "off")
    assert "off, switched off; so --prefix_engine onnxruntime is not used." in capsys.readouterr().out


def test_a_record_names_its_engine_for_those_who_repeat_it(job: Job) -> None:
    for name, flags in (("plain", ()), ("fast", ONNX)):
        kept = read_record(job("resnet", name, *flags) / "hfft.json")
        chosen = record_flags(kept)
        assert chosen[chosen.index("--prefix_engine") + 1] == ("onnxruntime" if flags else "torch")


def test_an_engine_that_is_not_installed_is_an_argument_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "missing_packages", lambda name: ["onnxscript"])
    with pytest.raises(ArgumentError, match=r"needs onnxscript: pip install \"hfft\[onnx\]\""):
        engines.check_wish(CacheArguments(prefix_engine="onnxruntime"))


def test_exported_engines_are_listed_and_pruned(job: Job) -> None:
    job("resnet", "run", *ONNX)
    found = list_entries(default_cache_dir())
    kept = [entry for entry in found if entry.folder.parent.name == "engines"]
    assert [entry.rows for entry in kept] == [0]
    assert kept[0].bytes > 1000
    assert len(prune(default_cache_dir())) == len(found) == 2  # both splits lie in one store
    assert not list(default_cache_dir().glob("engines/*"))


def test_labels_tell_engines_apart() -> None:
    uses = [
        EngineUse(),
        EngineUse("onnxruntime", "1", "float32"),
        EngineUse("onnxruntime", "2", "float32"),
        EngineUse("openvino", "1", "float32"),
        EngineUse("openvino", "1", "bfloat16"),
    ]
    assert all(a.label != b.label for a, b in itertools.combinations(uses, 2))
