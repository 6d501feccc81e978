"""Files that hfft did not write are never replaced or deleted in silence, and one run at a time writes to a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from finished import make_images, make_model

import hfft.jobs.finetune
import hfft.jobs.inputs
from hfft.cli import main
from hfft.curate.gather import refuse_existing
from hfft.errors import OutputError
from hfft.models.checkpoint import make_output_folder
from hfft.output_folder import CLAIMS, LOCK, claim, foreign, locked, made_folder, owned, refuse_overlap
from hfft.report.staging import staged_results
from hfft.training.resume import list_checkpoints, remove_checkpoints

Start = Callable[..., int]
MINE = ("README.md", "predictions.csv", "curves.png", "config.json", "model-00001-of-00002.safetensors")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_images(tmp_path / "photos")
    make_model(tmp_path / "base", kind="resnet")
    return tmp_path


@pytest.fixture
def start(place: Path) -> Start:
    """Return a runner of one-epoch jobs that gives the exit code."""

    def go(*flags: Any) -> int:
        given = ["--train_dir", place / "photos", "--model_name_or_path", place / "base", "--output_dir", place / "out"]
        given += ["--num_train_epochs", 1, "--disable_tqdm", "true", "--baselines", "none", "--figures", "false"]
        return main(["finetune", *map(str, [*given, *flags])])

    return go


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command said on standard error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hfft: error: ")]
    assert len(lines) == 1
    return lines[0]


def fill(folder: Path, names: tuple[str, ...] = MINE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("mine")


def untouched(folder: Path, names: tuple[str, ...] = MINE) -> bool:
    return all((folder / name).read_text() == "mine" for name in names)


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("loaded before it was refused")

    monkeypatch.setattr(hfft.jobs.inputs, "load_usable_sets", fail)
    monkeypatch.setattr(hfft.jobs.inputs, "load_model", fail)


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("flags", [(), ("--resume_from_checkpoint", "true")], ids=["anew", "resumed"])
def test_a_file_of_the_users_is_in_the_way(
    start: Start,
    place: Path,
    nothing_loads: None,
    capsys: pytest.CaptureFixture[str],
    name: str,
    flags: tuple[str, ...],
) -> None:
    fill(place / "out", (name,))
    assert start(*flags) == 1
    error = error_of(capsys)
    assert name in error
    assert "--overwrite_output_dir" in error
    assert untouched(place / "out", (name,))
    assert {file.name for file in (place / "out").iterdir()} == {name}


def test_overwriting_is_said_and_spares_other_files(
    start: Start, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(place / "out", (*MINE, "notes.txt", "model.onnx"))
    assert start("--overwrite_output_dir", "true") == 0
    assert "that hfft did not write: README.md, config.json, curves.png, model-0" in capsys.readouterr().out
    assert untouched(place / "out", ("notes.txt", "model.onnx", "curves.png"))  # no figure was drawn
    assert not (place / "out" / "model-00001-of-00002.safetensors").exists()
    listed = json.loads((place / "out" / "hfft.json").read_text())["written"]
    mine = {"notes.txt", "model.onnx", "curves.png"}
    assert set(listed) == {file.name for file in (place / "out").iterdir()} - mine


def test_what_the_record_does_not_list_survives_the_next_run(start: Start, place: Path) -> None:
    assert start() == 0
    fill(place / "out", ("curves.png", "model.onnx", "lr_finder-1.png"))
    assert start("--overwrite_output_dir", "true") == 0
    assert untouched(place / "out", ("curves.png", "model.onnx", "lr_finder-1.png"))


def test_all_that_the_record_lists_goes_with_it(start: Start, place: Path) -> None:
    assert start("--policy", "lp_ft", "--find_lr", "true", "--num_train_epochs", 2, "--figures", "true") == 0
    drawn = {"lr_finder-1.png", "lr_finder-2.png"}
    assert drawn <= owned(place / "out")
    assert not foreign(place / "out", ["*"])
    assert start("--find_lr", "true", "--overwrite_output_dir", "true") == 0
    names = {file.name for file in (place / "out").iterdir()}
    assert names & {*drawn, "curves.png"} == {"lr_finder-1.png"}
    assert not foreign(place / "out", ["*"])


def test_a_record_without_a_list_stands_for_all_results(start: Start, place: Path) -> None:
    assert start() == 0
    record = json.loads((place / "out" / "hfft.json").read_text())
    del record["written"]
    (place / "out" / "hfft.json").write_text(json.dumps(record))
    fill(place / "out", ("curves.png", "notes.txt"))
    assert start("--overwrite_output_dir", "true") == 0
    assert not (place / "out" / "curves.png").exists()
    assert untouched(place / "out", ("notes.txt",))


def test_what_appears_during_the_run_is_not_replaced(tmp_path: Path) -> None:
    def replace() -> None:
        with staged_results(tmp_path) as staging:
            (staging / "README.md").write_text("the card")
            fill(tmp_path, ("README.md",))

    with pytest.raises(OutputError, match=r"README\.md, which appeared during the run"):
        replace()
    assert untouched(tmp_path, ("README.md",))


def test_a_folder_called_unfinished_is_the_users(start: Start, place: Path) -> None:
    fill(place / "out" / "unfinished", ("notes.txt",))
    assert start() == 0
    assert untouched(place / "out" / "unfinished", ("notes.txt",))


def test_the_folder_of_the_base_or_of_images_is_refused(
    start: Start, place: Path, nothing_loads: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "link").symlink_to(place / "photos")
    (place / "table.csv").write_text("image,label\n")
    before = sorted(place.rglob("*"))
    more = ("--validation_dir", place / "photos", "--test_dir", place / "photos" / "red")
    monkeypatch.chdir(place)
    cases: list[tuple[Any, ...]] = [
        (place / "base",), (place / "base" / "new",), (place / "photos",), (place / "photos" / "run",), (place,),
        (".",), (place / "link" / "red" / "run",), ("photos/../photos/run",), (place / "out" / ".." / "base",),
        (place / "photos" / "red" / "x", *more),
    ]  # fmt: skip
    for output, *flags in cases:
        assert start("--output_dir", output, *flags) == 1, output
        assert "outputs/run" in error_of(capsys), output
    table = ["finetune", "--dataset_name", str(place / "table.csv"), "--output_dir", str(place)]
    assert main(table) == 1
    assert "--dataset_name" in error_of(capsys)
    assert sorted(place.rglob("*")) == before


def test_neighbours_of_what_is_read_are_fine(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    refuse_overlap(tmp_path / "photos-run", {"train_dir": str(tmp_path / "photos")})
    refuse_overlap(tmp_path / "photos" / ".." / "run", {"train_dir": str(tmp_path / "photos")})
    refuse_overlap(tmp_path, {"model_name_or_path": "google/vit", "train_dir": None})


def test_checkpoints_of_others_stay(tmp_path: Path) -> None:
    for name, record in (("checkpoint-3", {"format": 1, "identity": {}, "phase": 0}), ("checkpoint-7", {"mine": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.json").write_text(json.dumps(record))
    for name in ("checkpoint-5", ".checkpoint-notes", ".checkpoint-4.partial"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3"]
    remove_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-notes", "checkpoint-5", "checkpoint-7"]


@pytest.mark.parametrize(("keep", "left"), [(1, [5]), (2, [3, 5]), (3, [1, 3, 5]), (4, [1, 3, 5]), (10, [1, 3, 5])])
def test_the_newest_checkpoints_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in (1, 3, 5):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "checkpoint.json").write_text('{"format": 1, "identity": {}, "phase": 0}')
    remove_checkpoints(tmp_path, keep)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]


def test_claims_name_files_of_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / CLAIMS).write_text("a.csv\n../b.csv\n/c.csv\n..\n\n")
    assert owned(tmp_path) == {CLAIMS, "a.csv"}
    claim(tmp_path, ["d.csv"])
    assert owned(tmp_path) == {CLAIMS, "a.csv", "d.csv"}


def test_an_evaluation_replaces_its_own_files_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["evaluate", "--model", str(place / "base"), "--validation_dir", str(place / "photos"), "--output_dir"]
    assert main([*given, str(place / "judged")]) == 0
    assert main([*given, str(place / "judged")]) == 0
    fill(place / "thesis", ("predictions.csv",))
    (place / "run").mkdir()
    (place / "run" / "hfft.json").write_text("{}")
    for name, word in (
        ("thesis", "predictions.csv"),
        ("run", "holds a run"),
        ("photos/x", "validation_dir"),
        (".", "x"),
    ):
        capsys.readouterr()
        assert main([*given, str(place / name)]) == 1, name
        assert word in error_of(capsys)
    assert untouched(place / "thesis", ("predictions.csv",))


def test_a_sweep_replaces_its_own_files_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["sweep", "--train_dir", str(place / "photos"), "--model_name_or_path", str(place / "base")]
    given += ["--num_train_epochs", "1", "--sweep", "seed=1", "--output_dir", str(place / "sweep")]
    fill(place / "sweep", ("sweep.csv",))
    assert main(given) == 1
    assert "sweep.csv" in error_of(capsys)
    (place / "sweep" / "sweep.csv").unlink()
    fill(place / "sweep" / "seed=1", ("README.md",))
    assert main(given) == 1
    assert "README.md" in capsys.readouterr().out
    assert untouched(place / "sweep" / "seed=1", ("README.md",))
    (place / "sweep" / "seed=1" / "README.md").unlink()
    assert main(given) == 0
    assert main(given) == 0


def test_an_export_goes_with_the_weights(start: Start, place: Path) -> None:
    assert start() == 0
    assert main(["export", str(place / "out"), "--images", str(place / "photos")]) == 0
    assert (place / "out" / "export" / "onnx" / "model.onnx").exists()
    assert start("--overwrite_output_dir", "true", "--seed", 3) == 0
    assert not (place / "out" / "export").exists()


def test_merging_replaces_no_file_of_the_users(start: Start, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start() == 0
    fill(place / "merged", ("README.md",))
    assert main(["merge", str(place / "out"), "--output_dir", str(place / "merged")]) == 1
    assert "README.md" in error_of(capsys)
    assert untouched(place / "merged", ("README.md",))


def test_a_name_that_no_record_can_hold_is_refused_before_the_work(place: Path) -> None:
    with pytest.raises(OutputError, match="UTF-8"), made_folder(place / "o_\udce9"):
        pass
    with pytest.raises(OutputError, match="UTF-8"):
        make_output_folder(place / "o_\udce9")
    with pytest.raises(OutputError, match="UTF-8"):
        refuse_existing(str(place / "o_\udce9.csv"))
    assert not list(place.glob("o_*"))


def test_a_second_run_into_the_folder_is_refused(
    start: Start, place: Path, nothing_loads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "out").mkdir()
    hold = f"""
from pathlib import Path
from hfft.output_folder import locked
with locked(Path({str(place / "out")!r})):
    print(1, flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "1\n"
    for flags in ((), ("--overwrite_output_dir", "true"), ("--resume_from_checkpoint", "true")):
        assert start(*flags) == 1
        assert "another run is writing to" in error_of(capsys)
    assert [file.name for file in (place / "out").iterdir()] == [LOCK]
    other.kill()  # the system lets go of its lock
    other.communicate()
    with locked(place / "out"):
        pass
    assert not list((place / "out").iterdir())


def test_a_second_sweep_into_the_folder_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "sweep").mkdir()
    with locked(place / "sweep"):
        assert main(["sweep", "--sweep", "seed=1,2", "--output_dir", str(place / "sweep")]) == 1
    assert "another run is writing to" in error_of(capsys)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked where the system can")
def test_a_worker_that_outlives_its_run_holds_no_lock(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from hfft.output_folder import locked
with locked(Path({str(tmp_path)!r})):
    ready, told = os.pipe()
    if os.fork() == 0:
        os.write(told, b"1"); time.sleep(20); os._exit(0)
    os.read(ready, 1)  # the worker runs, and has let go of what it inherited
    os.kill(os.getpid(), 9)
"""
    child = subprocess.Popen([sys.executable, "-c", program])
    child.wait()
    with locked(tmp_path):
        pass


def test_a_run_leaves_no_lock(start: Start, place: Path) -> None:
    assert start() == 0
    assert not (place / "out" / LOCK).exists()
    FileLock(place / "out" / LOCK).acquire(timeout=0).lock.release()


@pytest.mark.parametrize("command", [("finetune",), ("sweep", "--sweep", "seed=1,2")], ids=["finetune", "sweep"])
def test_a_run_that_fails_leaves_no_empty_folders(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "mine").mkdir()
    nowhere = ["--train_dir", str(tmp_path / "nowhere")]
    assert main([*command, *nowhere, "--output_dir", str(tmp_path / "mine" / "out" / "deep")]) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_folder_that_holds_something_stays(tmp_path: Path) -> None:
    with made_folder(tmp_path / "out" / "deep"):
        (tmp_path / "out" / "log.txt").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["log.txt", "out"]
