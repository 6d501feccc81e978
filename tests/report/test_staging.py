"""Results that replace others, interrupted at every write: one run whole, the other whole, or none at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageClassification

import hfft
import hfft.jobs.results
import hfft.report.write
from hfft.errors import HfftError, ModelError, OutputError
from hfft.hub.push import Target, collect
from hfft.jobs.run import Run
from hfft.output_folder import CLAIMS, RESULTS, claim, foreign, owned
from hfft.report.record import read_record
from hfft.report.staging import staged_results

Folder = Callable[..., Path]
Files = dict[str, bytes]

WRITERS = [
    *((hfft.jobs.results, name) for name in ("save_checkpoint", "write_delta", "_write_metrics", "_write_predictions")),
    *((hfft.jobs.results, name) for name in ("make_record", "write_report")),
    *((hfft.report.write, name) for name in ("write_trace", "write_record", "confusion_figure", "write_mistakes")),
    (hfft.report.write, "model_card"),
]
FAULTS = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()]
DATED = {"hfft.json", "README.md"}  # these tell when they were written


def _run(images: Path, model: Path, folder: Path, **options: Any) -> Run:
    return hfft.finetune(
        model_name_or_path=str(model), train_dir=str(images), output_dir=str(folder), num_train_epochs=1,
        disable_tqdm=True, baselines="none", say=lambda line: None, **options,
    )  # fmt: skip


class Scene:
    """A folder that holds the results of one run, and another run that is about to replace them."""

    def __init__(self, tmp_path: Path, images: Path, tests: Path, model: Path) -> None:
        self.folder, self.before = tmp_path / "out", tmp_path / "before"
        _run(images, model, self.before, test_dir=str(tests))
        claim(self.before, ["model.onnx"])
        (self.before / "model.onnx").write_bytes(b"the old weights, exported")
        self.run = _run(images, model, tmp_path / "after", seed=3)
        self.old, self.new = _files(self.before), _files(tmp_path / "after")
        self.run.settings.training.output_dir = str(self.folder)

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before, self.folder)
        (self.folder / "notes.png").write_bytes(b"the user's own")

    def state(self) -> str:
        """Say what the folder holds, and fail where it is a mixture."""
        here = _files(self.folder)
        assert here.pop("notes.png") == b"the user's own"
        here.pop(CLAIMS, None)  # says whose the files are while there is no record
        assert not foreign(self.folder, set(here))
        if here == self.old:
            return "old"
        if "hfft.json" in here:
            assert here.keys() == self.new.keys()
            assert all(here[name] == self.new[name] for name in here.keys() - DATED)
            record = read_record(self.folder / "hfft.json")
            assert record.seed == 3
            assert record.files == {"model.safetensors": hashlib.sha256(here["model.safetensors"]).hexdigest()}
            assert b", seed 3, " in here["README.md"]
            return "new"
        with pytest.raises(OutputError, match="does not hold a finished run"):
            collect(self.folder, Target("me/model"))
        if "config.json" in here:
            weights = here["model.safetensors"], here["preprocessor_config.json"], here["config.json"]
            names = ("model.safetensors", "preprocessor_config.json", "config.json")
            assert weights in [tuple(run[name] for name in names) for run in (self.old, self.new)]
            AutoModelForImageClassification.from_pretrained(self.folder)
        else:
            with pytest.raises(ModelError, match=r"holds no config\.json"):
                hfft.load(self.folder)
        return "none"


def _files(folder: Path) -> Files:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture
def scene(tmp_path: Path, image_folder: Folder, pretrained: Folder) -> Scene:
    return Scene(tmp_path, image_folder(), image_folder("test", per_class=2), pretrained("resnet"))


@contextmanager
def _fault_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> Iterator[list[int]]:
    """Raise once, at the given one of all renames and removals."""
    seen = [0]

    def faulty(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen[0] += 1
            if seen[0] == step:
                raise error
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", faulty(os.replace))
        patch.setattr(os, "unlink", faulty(os.unlink))
        yield seen


@pytest.mark.parametrize("error", FAULTS, ids=["full", "ctrl-c"])
def test_results_interrupted_at_every_rename_and_removal(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    scene.run.settings.training.figures = False
    scene.new = {name: content for name, content in scene.new.items() if not name.endswith(".png")}
    states = []
    for step in range(1, 200):
        scene.reset()
        with _fault_at(monkeypatch, step, error):
            try:
                hfft.jobs.results.write_results(scene.run)
            except (HfftError, KeyboardInterrupt):
                states.append(scene.state())
            else:
                break
        assert not list(scene.folder.glob(".saving-*"))
    assert scene.state() == "new"
    assert {"old", "none"} <= set(states)
    assert len(states) > len(scene.old) + len(scene.new)


@pytest.mark.parametrize("error", FAULTS, ids=["full", "ctrl-c"])
def test_results_interrupted_while_any_file_is_written(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    for place, name in WRITERS:
        write = getattr(place, name)

        def fail(*args: Any, write: Callable[..., Any] = write, **kwargs: Any) -> Any:
            write(*args, **kwargs)
            raise error

        scene.reset()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            with pytest.raises((OutputError, KeyboardInterrupt)):
                hfft.jobs.results.write_results(scene.run)
        assert scene.state() == "old", name
        assert not list(scene.folder.glob(".saving-*")), name
    hfft.jobs.results.write_results(scene.run)
    assert scene.state() == "new"


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".saving-abc").mkdir()
    (tmp_path / ".saving-abc" / "model.safetensors").write_bytes(b"half")
    with staged_results(tmp_path) as staging:
        (staging / "trace.csv").write_text("new")
    assert {file.name for file in tmp_path.iterdir()} == {"trace.csv", CLAIMS}


def test_every_result_is_known_by_name(scene: Scene) -> None:
    known = {file.name for pattern in RESULTS for file in scene.before.glob(pattern)}
    assert known | {"model.onnx"} == scene.old.keys() == owned(scene.before)


def test_no_error_names_the_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(HfftError) as caught, staged_results(tmp_path) as staging:
        raise HfftError(f"cannot write {staging / 'hfft.json'}: no")
    assert str(caught.value) == f"cannot write {tmp_path / 'hfft.json'}: no"
