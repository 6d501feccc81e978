"""hfft.json: what is written comes back, and what is malformed is named."""

import json
import math
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfft.errors import HfftError, OutputError
from hfft.metrics import ClassRow, SplitMetrics
from hfft.report.record import (
    BaseRecord,
    CacheRecord,
    DataRecord,
    FrozenRecord,
    PartRecord,
    PhaseRecord,
    RunRecord,
    read_record,
    read_record_here,
    write_record,
)

FULL = RunRecord(
    hfft_version="0.1.0",
    created="2026-01-02T03:04:05+00:00",
    base=BaseRecord("microsoft/resnet-18", "abc", "0" * 64, "apache-2.0", on_hub=True),
    data=DataRecord("beans", ["good", "bad"], {"train": 100, "validation": 20}, {"train": "f" * 64}, True, ["x.jpg"]),
    policy="last_n:2",
    plan=[PhaseRecord("last_n:2", 5, 20, 1000, 4000, "layer4", {"head": 5e-3, "block 4": 1e-3})],
    metrics={"validation": SplitMetrics(20, {"accuracy": 0.9, "loss": 0.3}, {"accuracy": (0.75, 1.0)})},
    versions={"python": "3.12"},
    arguments={"seed": 42, "policy": "last_n:2", "train_dir": None, "bf16": False, "betas": [0.9, 0.999]},
    anatomy={"stem": ["conv1"], "blocks": [["layer1"]], "neck": [], "head": ["fc"]},
    parts=[PartRecord("stem", 3000, 0), PartRecord("head", 1000, 1000)],
    seed=42,
    processes=2,
    device="cuda",
    seconds={"total": 12.5, "prefix": 3.0},
    cache=CacheRecord("memory", 10_000, 400),
    per_class=[ClassRow("good", 0.9, 0.8, 0.85, 10)],
    best_epoch=3,
    test_evaluations=1,
    frozen=FrozenRecord(60, "a", "a"),
    baselines={"majority": {"accuracy": 0.5}},
)


def plain() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(FULL, default=vars))
    return data


def written(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "hfft.json"
    path.write_text(json.dumps(data))
    return path


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "hfft.json"
    write_record(path, FULL)
    assert read_record(path) == FULL
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("output", "found"),
    [("runs/one", "../photos"), ("./runs/one", "../photos"), ("one", "photos"), ("x/one", "photos"), (".", "photos")],
)
def test_relative_paths_count_from_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, found: str
) -> None:
    for place in ("photos", "runs/one", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    paths = {"train_dir": "photos", "test_dir": "none", "dataset_name": "user/photos", "validation_dir": "/none"}
    path = written(tmp_path / "runs/one", plain() | {"arguments": {**paths, "output_dir": output}})
    assert read_record_here(path).arguments == {**paths, "output_dir": output, "train_dir": found}
    assert read_record(path).arguments["train_dir"] == "photos"  # which a push takes out of all texts
    monkeypatch.chdir(tmp_path)
    assert read_record_here(path) == read_record(path)


def test_only_what_is_needed_must_be_there(tmp_path: Path) -> None:
    needed = ("hfft_version", "created", "base", "data", "policy", "plan", "metrics")
    record = read_record(written(tmp_path, {name: plain()[name] for name in needed}))
    assert record.frozen is None
    assert record.cache == CacheRecord()


def test_what_is_no_number_is_null_and_comes_back(tmp_path: Path) -> None:
    record = deepcopy(FULL)
    record.metrics["validation"].values["loss"] = math.nan
    path = tmp_path / "hfft.json"
    write_record(path, record)
    assert "NaN" not in path.read_text()
    assert math.isnan(read_record(path).metrics["validation"].values["loss"])


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    data = plain()
    data["colour"] = "blue"
    data["base"]["colour"] = "blue"
    assert read_record(written(tmp_path, data)) == FULL


def test_frozen_says_whether_it_held() -> None:
    assert FrozenRecord(1, "a", "a").unchanged
    assert not FrozenRecord(1, "a", "b").unchanged


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("policy",), 3, "policy: expected str, found 3"),
        (("seed",), True, "seed: expected int, found True"),
        (("base",), [], "base: expected an object"),
        (("base", "revision"), 5, "base: revision: expected str, found 5"),
        (("plan", 0, "epochs"), "5", r"plan\[0\]: epochs: expected float"),
        (
            ("metrics", "validation", "intervals", "accuracy"),
            [0.1],
            r"intervals.accuracy: expected tuple\[float, float\]",
        ),
        (("data", "labels"), "ab", r"labels: expected list\[str\]"),
        (("format",), 2, "format: expected"),
    ],
)
def test_values_of_the_wrong_kind(tmp_path: Path, path: tuple[str | int, ...], value: object, message: str) -> None:
    data = place = plain()
    for key in path[:-1]:
        place = place[key]  # type: ignore[index]
    place[path[-1]] = value  # type: ignore[index]
    with pytest.raises(HfftError, match=message):
        read_record(written(tmp_path, data))


def test_missing_key_and_missing_file(tmp_path: Path) -> None:
    data = plain()
    del data["base"]["id"]
    with pytest.raises(HfftError, match="base: id is missing"):
        read_record(written(tmp_path, data))
    with pytest.raises(HfftError, match="cannot read"):
        read_record(tmp_path / "none.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'"text"'])
def test_what_is_no_record(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hfft.json"
    path.write_bytes(content)
    with pytest.raises(HfftError):
        read_record(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(sorted(vars(FULL))), json_values)
def test_any_value_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = written(tmp_path_factory.mktemp("record"), {**plain(), key: value})
    with suppress(HfftError):
        assert isinstance(read_record(path), RunRecord)


def test_paths_and_values_that_refuse(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_record(tmp_path / "none" / "hfft.json", FULL)
    record = deepcopy(FULL)
    record.arguments["device"] = object()
    with pytest.raises(HfftError, match="not JSON serializable"):
        write_record(tmp_path / "hfft.json", record)
    assert not list(tmp_path.iterdir())


def test_a_record_that_spells_license_the_old_way_is_read(tmp_path: Path) -> None:
    data = plain()
    data["base"]["licence"] = data["base"].pop("license")
    assert read_record(written(tmp_path, data)) == FULL
