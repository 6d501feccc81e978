"""Whatever arguments, files and image bytes are thrown at it: exit codes and one line, never a traceback."""

from __future__ import annotations

import io
import json
import string
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hfft.cli import main
from hfft.cli.commands import COMMANDS
from hfft.data.probe import PROBLEMS, probe_image
from hfft.errors import HfftError
from hfft.report.record import read_record

FAST = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONG = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# What needs a network, a server or minutes is left out; so is help, which leaves by SystemExit.
FUZZED = sorted(set(COMMANDS) & {"check", "finetune", "plan", "predict", "evaluate", "merge", "cache"})
FLAGS = ["--policy", "--seed", "--model", "--train_dir", "--dataset_name", "--top_k", "--views", "--json", "--anatomy"]
WORDS = st.one_of(
    st.sampled_from([*FLAGS, "--", "-1", "1e400", "nan", "true", "x.yaml", "head", "last_n:0", "--output_dir"]),
    st.text(string.printable.replace("/", "").replace("h", ""), max_size=12),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working directory, with an output folder that is taken: no run ever begins."""
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "hfft.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(argv: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command; a run that were valid would stop at the taken output folder."""
    guarded = [*argv, "--output_dir", "taken"] if argv[0] == "finetune" else argv
    code = main(guarded)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert "did not foresee" not in printed.err
    if code not in (0, 130):
        assert code in (1, 2)
    if "--json" in argv:
        assert json.loads(printed.out)["ok"] is False or code in (0, 1)
    elif code == 2:
        assert printed.err.startswith("hfft: error: ")
    return code


def _arguments(place: Path, capsys: pytest.CaptureFixture[str], command: str, words: list[str]) -> None:
    words = [word for word in words if word != "--debug" and not word.startswith("-h")]
    with suppress(SystemExit):  # argparse leaves so once it has printed help
        run([command, *words], capsys)


@FAST
@given(command=st.sampled_from(["check", "finetune", "predict", "cache"]), words=st.lists(WORDS, max_size=4))
def test_arguments(place: Path, capsys: pytest.CaptureFixture[str], command: str, words: list[str]) -> None:
    if command != "check" or words:  # without words it reads the embedded images, which takes its time
        _arguments(place, capsys, command, [*words, "--train_dir", "nowhere"] if command == "check" else words)


@pytest.mark.slow
@LONG
@given(command=st.sampled_from(FUZZED), words=st.lists(WORDS, min_size=1, max_size=6))
def test_arguments_at_length(place: Path, capsys: pytest.CaptureFixture[str], command: str, words: list[str]) -> None:
    _arguments(place, capsys, command, words)


def _yaml(place: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (place / "config.yaml").write_bytes(content)
    assert run(["finetune", "config.yaml"], capsys) in (1, 2)


@FAST
@given(content=st.binary(max_size=60) | JSON.map(lambda value: yaml.safe_dump(value).encode()))
def test_yaml_files(place: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    _yaml(place, capsys, content)


@pytest.mark.slow
@LONG
@given(
    content=st.dictionaries(st.sampled_from([flag[2:] for flag in FLAGS]), JSON, max_size=4).map(
        lambda value: yaml.safe_dump(value).encode()
    )
)
def test_yaml_files_of_known_keys(place: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    _yaml(place, capsys, content)


def _record(place: Path, content: bytes) -> None:
    (place / "hfft.json").write_bytes(content)
    with suppress(HfftError):
        read_record(place / "hfft.json")


@FAST
@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_records(place: Path, content: bytes) -> None:
    _record(place, content)


@FAST
@given(
    name=st.sampled_from(["base", "data", "plan", "metrics", "versions", "arguments", "seconds", "format"]), new=JSON
)
def test_records_with_a_wrong_value(place: Path, capsys: pytest.CaptureFixture[str], name: str, new: Any) -> None:
    whole: dict[str, Any] = {
        "hfft_version": "0",
        "created": "now",
        "base": {"id": "x"},
        "data": {"name": "x", "labels": [], "counts": {}},
        "policy": "head",
        "plan": [],
        "metrics": {},
    }
    _record(place, json.dumps({**whole, name: new}).encode())
    (place / "record.json").write_text(json.dumps({**whole, name: new}))
    assert run(["finetune", "--from_record", "record.json"], capsys) in (1, 2)


@FAST
@given(content=st.binary(max_size=60) | JSON.map(lambda value: yaml.safe_dump(value).encode()))
def test_anatomy_files(place: Path, content: bytes) -> None:
    from torch import nn

    from hfft.planning.anatomy_file import load_anatomy

    (place / "anatomy.yaml").write_bytes(content)
    with pytest.raises(HfftError) as raised:
        load_anatomy(str(place / "anatomy.yaml"), nn.Sequential(nn.Linear(2, 2)))
    assert "\n" not in str(raised.value)


@cache
def _seed_images() -> list[bytes]:
    """One small image of each common format, the same ones in every run."""
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (16, 24, 3)).astype(np.uint8))
    contents = []
    for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        stream = io.BytesIO()
        image.save(stream, form)
        contents.append(stream.getvalue())
    return contents


def _bytes(data: st.DataObject) -> None:
    seeds = _seed_images()
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[position] = value
    cut = data.draw(st.integers(0, len(content)))
    look = probe_image(io.BytesIO(bytes(content[:cut])), 0)
    assert look.problem in ("", *PROBLEMS)
    assert "\n" not in look.reason
    assert bool(look.content) == (not look.problem)


@FAST
@given(data=st.data())
def test_image_bytes(data: st.DataObject) -> None:
    _bytes(data)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_image_bytes_at_length(data: st.DataObject) -> None:
    _bytes(data)
