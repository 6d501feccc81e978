"""The command line's own behaviour: help, versions, unknown commands, and the small tools."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hfft import __version__
from hfft.cli import main
from hfft.cli.commands import COMMANDS
from hfft.data.content import MEMO

Folder = Callable[..., Path]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(set(COMMANDS)))
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert f"hfft {name}" in printed
    assert "(default: None)" not in printed


def test_version_and_module(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "hfft", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"hfft {__version__}"


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetun"]) == 2
    assert "did you mean finetune?" in capsys.readouterr().err


def test_plan_as_text_and_json(pretrained: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(pretrained("vit"))
    assert main(["plan", "--model_name_or_path", model, "--policy", "last_n:2"]) == 0
    tree = capsys.readouterr().out
    for words in ("stem", "block 3", "neck", "head", "frozen", "Boundary", "MB per 1,000 images"):
        assert words in tree
    assert main(["plan", "--model_name_or_path", model, "--policy", "last_n:2", "--json"]) == 0
    phase = json.loads(capsys.readouterr().out)["result"]["phases"][0]
    trainable = {part["part"] for part in phase["parts"] if part["trainable"]}
    assert trainable == {"block 2", "block 3", "neck", "head"}
    assert phase["trainable"] == sum(part["trainable"] for part in phase["parts"])
    assert phase["cache_bytes_per_image"] == 17 * 64 * 4


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_what_standard_output_has_no_code_for_ends_no_command(
    encoding: str, pretrained: Folder, image_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a pipe and a file are in the language's own code page."""
    images = image_folder(classes=("ünïx", "č→猫"), per_class=2)

    def printed(*argv: str) -> str:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            assert main(list(argv)) == 0
        stream.flush()
        return stream.buffer.getvalue().decode(encoding)

    tree = printed("plan", "--model_name_or_path", str(pretrained("resnet")))
    assert ("└─ head" in tree, "`- head" in tree) == (encoding == "utf-8", encoding != "utf-8")
    assert ("č→猫" if encoding == "utf-8" else r"\u2192") in printed("check", str(images))
    answer = printed("check", str(images), "--json")
    assert "ünïx, č→猫" in json.loads(answer.encode(encoding))["result"]["notes"][0]


def test_a_suggested_anatomy_gives_the_plugins_plan(
    pretrained: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(pretrained("vit"))
    assert main(["plan", "--model_name_or_path", model, "--suggest_anatomy"]) == 0
    (tmp_path / "anatomy.yaml").write_text(capsys.readouterr().out)
    plans = []
    for flags in ([], ["--anatomy", str(tmp_path / "anatomy.yaml")]):
        assert main(["plan", "--model_name_or_path", model, "--json", *flags]) == 0
        phase = json.loads(capsys.readouterr().out)["result"]["phases"][0]
        plans.append([(part["part"], part["parameters"], part["trainable"]) for part in phase["parts"]])
    assert plans[0] == plans[1]


def test_cache_list_and_prune(
    pretrained: Folder, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images = str(pretrained("resnet")), str(image_folder())
    run = ["finetune", "--model_name_or_path", model, "--train_dir", images, "--output_dir", str(tmp_path / "out")]
    assert main([*run, "--num_train_epochs", "1", "--disable_tqdm", "true"]) == 0
    capsys.readouterr()
    assert main(["cache", "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.count(" rows ") == 1  # both splits lie in one store
    assert "1 entries" in listed
    assert main(["cache", "prune"]) == 0
    assert "Removed 1 entries" in capsys.readouterr().out
    left = {each.name for each in (tmp_path / "activations").iterdir()}
    assert left <= {MEMO}  # which is written once the images have not changed for two seconds


def test_plugins_are_listed_and_checked(pretrained: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("cnn", "vit", "timm", "resnet", "timm_wrapper", "hfft"))
    assert main(["plugins", "check", "vit", "--model", str(pretrained("vit"))]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert main(["plugins", "chek", "vit"]) == 2
    assert "did you mean check?" in capsys.readouterr().err
    assert main(["plugins", "check", "nobody", "--model", str(pretrained("vit"))]) == 1
    assert "nobody" in capsys.readouterr().err


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("hfft.cli.train.plan_command", interrupt)
    assert main(["plan"]) == 130
    assert capsys.readouterr().err.startswith("hfft: interrupted")


SIGNALLED = """
import os, signal, sys
class Stop:
    def find_spec(self, name, *rest):
        if name == "{module}":
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Stop())
from hfft.cli import main
raise SystemExit(main(["plan", "--model_name_or_path", "none"]))
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "code", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "stopped by SIGTERM")]
)
@pytest.mark.parametrize("module", ["hfft.cli.dispatch", "hfft.jobs.plan", "transformers"])
def test_a_signal_at_any_time_is_one_line(module: str, name: str, code: int, said: str) -> None:
    program = [sys.executable, "-c", SIGNALLED.format(module=module, name=name)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert done.stderr.startswith(f"hfft: {said}")


STREAMED = """
import os, sys
from hfft.cli import commands, dispatch, reply
def talk(argv):
    print("a line")
    sys.stdin.read()
    print("and one that nobody reads")
    return reply.Reply()
commands.Command.load = lambda self: talk
code = dispatch.main(["plan"])
sys.stderr.write(f"code {code}")
"""


def test_a_line_arrives_when_it_is_said_and_a_reader_may_leave() -> None:
    program = [sys.executable, "-c", STREAMED]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        killer = threading.Timer(60, process.kill)  # else a line that never comes is waited for
        killer.start()
        assert process.stdout.readline() == "a line\n"
        killer.cancel()
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == "code 141"


@pytest.mark.slow  # test_distributed launches it in the default set
def test_the_script_is_the_same_job_as_the_command(pretrained: Folder, image_folder: Folder, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "finetune.py"
    flags = [
        "--model_name_or_path",
        pretrained("resnet"),
        "--train_dir",
        image_folder(),
        "--output_dir",
        tmp_path / "out",
    ]
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    command = [sys.executable, *launch, script, *flags, "--num_train_epochs", "1"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "Everything is in" in done.stdout
    assert (tmp_path / "out" / "hfft.json").exists()
