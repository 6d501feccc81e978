"""`--json`: one object on standard output, whatever a command does and however it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from finished import make_images, make_model, run_finetune

import hfft.errors
from hfft.cli import main
from hfft.cli.commands import COMMANDS
from hfft.cli.reply import Reply, failure_of, print_json
from hfft.errors import ArgumentError, DataError, HfftError, PreemptedError, TerminatedError
from hfft.report.typed_json import as_json

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reply")
    images = make_images(folder / "photos")
    make_images(folder / "others", ("pink",), 3)
    run_finetune(make_model(folder / "base"), images, folder / "run", "head")
    return folder


def answer(capsys: pytest.CaptureFixture[str], *argv: Any) -> tuple[int, dict[str, Any]]:
    code = main([str(word) for word in argv] + ["--json"])
    return code, json.loads(capsys.readouterr().out)


COMMAND_LINES: dict[str, list[str]] = {
    "check": ["{photos}"],
    "labels": ["{photos}", "--model", "{base}"],
    "depth": ["{photos}", "--model", "{base}"],
    "plan": ["--model_name_or_path", "{base}"],
    "cache": ["list"],
    "plugins": [],
    "predict": ["{photos}", "--model", "{run}"],
    "evaluate": ["--model", "{run}", "--validation_dir", "{photos}", "--output_dir", "{new}/judged"],
    "next": ["{others}", "--model", "{run}"],
    "embed": ["{photos}", "--model", "{base}", "--output", "{new}/f.safetensors"],
    "merge": ["{run}", "--output_dir", "{new}/merged"],
    "finetune": ["--model_name_or_path", "{base}", "--train_dir", "{photos}", "--output_dir", "{new}/out"],
    "extend": ["{run}", "--train_dir", "{others}", "--output_dir", "{new}/more"],
    "sweep": ["--train_dir", "{photos}", "--output_dir", "{run}/config.json/x", "--sweep", "seed=1"],
    "advise": ["{photos}", "--model_name_or_path", "{base}", "--folds", "99"],
    "export": ["{run}", "--to", "coreml"],
    "push": ["{photos}", "--repo_id", "x"],
}
FAILING = {"sweep": 1, "advise": 2, "export": 2, "push": 1}


@pytest.mark.parametrize("command", COMMAND_LINES)
def test_every_command_answers_in_the_schema(
    command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name: place / name for name in ("photos", "others", "base", "run")} | {"new": tmp_path}
    extra = ["--num_train_epochs", "1", "--figures", "false", "--baselines", "none"] if command == "finetune" else []
    code, found = answer(capsys, command, *(word.format(**names) for word in COMMAND_LINES[command]), *extra)
    assert found["command"] == command
    assert all(isinstance(line, str) for line in found["messages"])
    if command not in FAILING:
        assert (code, found["ok"]) == (0, True)
        assert found["result"]
        return
    assert (code, found["ok"]) == (FAILING[command], False)
    assert set(found["error"]) == {"code", "message", "hint", "place"}


def test_what_is_missing_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = answer(capsys, "cache")
    assert code == 2
    assert "ACTION" in said["error"]["message"]


def test_a_port_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = answer(capsys, "space", "--port", 99999)
    assert code == 2
    assert said["error"]["message"] == "--port must be from 1 to 65535, not 99999"


def test_every_command_is_tried() -> None:
    assert COMMAND_LINES.keys() == COMMANDS.keys() - {"space"}  # it serves until it is ended


def test_folder_to_answer_in_three_calls(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, checked = answer(capsys, "check", place / "photos")
    assert (code, checked["result"]["images"]) == (0, {"train": 18})
    flags = ["--num_train_epochs", 8, "--learning_rate", 5e-3, "--figures", "false", "--baselines", "none"]
    base = ["--model_name_or_path", place / "base", "--per_device_train_batch_size", 4]
    code, run = answer(
        capsys, "finetune", "--dataset_name", place / "photos", "--output_dir", tmp_path / "out", *base, *flags
    )
    assert code == 0
    assert run["result"]["labels"] == ["blue", "green", "red"]
    code, found = answer(capsys, "predict", place / "photos" / "red", "--model", run["result"]["output_dir"])
    answers = {row["label"] for row in found["result"]["predictions"]}
    assert (code, answers) == (0, {"red"})


def test_nothing_else_comes_on_standard_output(place: Path, tmp_path: Path) -> None:
    """Not even from code below Python, or from a training's own lines."""
    (tmp_path / "sitecustomize.py").write_text("")
    program = (
        "import os, sys\n"
        "from hfft.cli import reply, dispatch\n"
        "def run():\n    print('said'); os.write(1, b'raw\\n'); return reply.Reply({'a': 1})\n"
        "sys.exit(reply.print_json('x', run, False))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"ok": True, "command": "x", "result": {"a": 1}, "messages": ["said"]}
    assert sorted(done.stderr.split()) == ["raw", "said"]


@pytest.mark.processes
def test_no_bars_and_no_colours_without_a_terminal(place: Path, tmp_path: Path) -> None:
    argv = ["finetune", "--model_name_or_path", place / "base", "--train_dir", place / "photos", "--output_dir"]
    command = [sys.executable, "-m", "hfft", *argv, tmp_path / "out", "--num_train_epochs", "1", "--figures", "false"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, env=os.environ)
    for text in (done.stdout, done.stderr):
        assert "\r" not in text
        assert "\x1b" not in text
        assert "%|" not in text


@pytest.mark.parametrize(
    ("argv", "code", "error"),
    [
        (["plan", "--polcy", "head"], 2, {"code": "argument", "hint": "did you mean --policy?", "place": "--polcy"}),
        (["finetun"], 2, {"code": "argument", "place": None}),
        (["check", "{tmp}"], 1, {"code": "data"}),
        (["predict", "x.png", "--model", "{tmp}"], 1, {"code": "model", "place": "{tmp}"}),
        (["predict", "{tmp}", "--model", "{tmp}"], 1, {"code": "data", "place": "{tmp}"}),
    ],
)
def test_errors(
    argv: list[str], code: int, error: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit, found = answer(capsys, *(word.format(tmp=tmp_path) for word in argv))
    assert (exit, found["ok"], found["command"]) == (code, False, argv[0])
    assert found["error"]["message"]
    expected = {name: value and value.format(tmp=tmp_path) for name, value in error.items()}
    assert expected.items() <= found["error"].items()


@pytest.mark.parametrize(
    ("error", "code", "exit"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (TerminatedError("stopped by SIGTERM"), "preempted", 143),
        (PreemptedError("ended; run again"), "preempted", 143),
        (MemoryError("no"), "out_of_memory", 1),
        (OSError(28, "No space left on device"), "disk_full", 1),
        (PermissionError(13, "Permission denied"), "permission", 1),
        (ZeroDivisionError("x"), "unexpected", 1),
    ],
)
def test_kinds_of_errors(error: BaseException, code: str, exit: int) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.exit) == (code, exit)
    assert failure.line.startswith("hfft: ")


def test_an_error_is_taken_apart() -> None:
    failure = failure_of(DataError(f"{ROOT} holds no images; give another folder"))
    assert (failure.message, failure.hint) == (f"{ROOT} holds no images", "give another folder")
    assert failure.place == str(ROOT)
    assert failure_of(ArgumentError("--x 3 is too much for it")).place == "--x"
    assert failure_of(HfftError("nothing to do")).hint == ""


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "--help")[1]["result"]["commands"].keys() == COMMANDS.keys()
    assert answer(capsys, "--version")[1]["result"] == {"version": hfft.__version__}
    code, found = answer(capsys, "plan", "--help")
    assert (code, found["ok"]) == (0, True)
    assert any("--policy" in line for line in found["messages"])


def test_what_json_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json({1: (Path("a"), float("nan"), float("inf"))}) == {"1": ["a", None, None]}
    print_json("x", lambda: Reply({"name": "a\udcffb"}), False)
    assert json.loads(capsys.readouterr().out)["result"] == {"name": "a?b"}


def test_the_page_for_programs_names_all_there_is() -> None:
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    codes = {kind.code for kind in vars(hfft.errors).values() if isinstance(kind, type) and issubclass(kind, HfftError)}
    codes |= {"interrupted", "disk_full", "permission", "out_of_memory", "system", "unexpected"}
    assert not {code for code in codes if f"`{code}`" not in page}
    assert not {name for name in COMMANDS if f"| `{name}` |" not in page}


@pytest.mark.parametrize("page", ["llms.txt", "SKILL.md", "docs/agents.md"])
def test_commands_that_pages_show_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"hfft (?=[a-z])(\w+)", text)
    assert named
    assert not {name for name in named if name not in COMMANDS and name in text.split("`")[1::2]}
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert not [link for link in links if not ((ROOT / page).parent / link).exists()]
