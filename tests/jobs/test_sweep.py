"""Sweeps: every combination once, one cache, resumed where it stopped, and the test images left alone."""

from __future__ import annotations

import csv
import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hfft.arguments import DataArguments, ModelArguments
from hfft.cli import main
from hfft.cli.train import finetune_settings
from hfft.errors import ArgumentError, PreemptedError
from hfft.jobs.finetune import finetune
from hfft.jobs.inputs import Shared
from hfft.jobs.sweep import folder_names, parse_grid, read_runs, run_name, sweep
from hfft.models.checkpoint import load
from hfft.output_folder import note, owned
from hfft.report.record import read_record
from hfft.training.recipe import amount
from hfft.training.setup import Settings

Folder = Callable[..., Path]


@pytest.fixture
def flags(pretrained: Folder, image_folder: Folder) -> list[str]:
    """The model and the images of a small run."""
    return ["--model_name_or_path", str(pretrained("resnet")), "--train_dir", str(image_folder())]


def test_grid_has_every_combination() -> None:
    grid = parse_grid(["learning_rate=1e-4,3e-4", "policy=head,last_block"])
    assert len(grid) == 4
    assert {"learning_rate": "3e-4", "policy": "head"} in grid
    assert parse_grid([]) == [{}]


@pytest.mark.parametrize("wrong", [["policy"], ["policy="], ["=a"], ["policy=a,,b"], ["seed=1", "seed=2"]])
def test_wrong_grid(wrong: list[str]) -> None:
    with pytest.raises(ArgumentError, match="--sweep"):
        parse_grid(wrong)


def test_yaml_grid_and_list(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("seed: 3\nsweep: {learning_rate: [1e-4, 0.001], policy: head}\n")
    runs, shared = read_runs(str(path))
    assert runs == [{"learning_rate": "1e-4", "policy": "head"}, {"learning_rate": "0.001", "policy": "head"}]
    assert shared == {"seed": 3}
    path.write_text("sweep:\n- {policy: head}\n- {policy: last_block, seed: 7}\n")
    assert read_runs(str(path))[0] == [{"policy": "head"}, {"policy": "last_block", "seed": "7"}]
    for nothing in ("sweep: {policy: [head, null]}\n", "sweep:\n- {policy: }\n"):
        path.write_text(nothing)
        with pytest.raises(ArgumentError, match="gives policy nothing"):
            read_runs(str(path))
    path.write_text("sweep: nonsense\n")
    with pytest.raises(ArgumentError, match="sweep must map"):
        read_runs(str(path))


def test_run_names_are_safe_for_folders() -> None:
    assert run_name({"policy": "last_n:2", "learning_rate": "1e-3"}) == "policy=last_n-2,learning_rate=1e-3"


def test_sweep(pretrained: Folder, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [
        *("--model_name_or_path", str(pretrained("resnet")), "--train_dir", str(image_folder())),
        *("--test_dir", str(image_folder("test", per_class=2)), "--num_train_epochs", "1"),
        *("--output_dir", str(tmp_path / "sweep"), "--per_device_train_batch_size", "6"),
    ]
    flags = [*common, "--sweep", "learning_rate=1e-3,1e-2", "policy=head,last_block"]
    assert main(["sweep", *flags]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"The best, .* \(\d+ of \d+\) on validation, is optimistic", printed)
    assert "The best one again: hfft finetune" in printed
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    accuracies = [float(row["accuracy"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 1000
    records = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/hfft.json")]
    assert all("test" not in record["metrics"] for record in records)
    # One store for each boundary, with both splits: the second learning rate finds all its activations.
    assert len(list((tmp_path / "activations").glob("*/entry.json"))) == 2
    assert sorted(record["cache"]["hits"] for record in records) == [0, 0, 24, 24]

    stopped = tmp_path / "sweep" / "learning_rate=1e-3,policy=head"
    note(stopped, owned(stopped))  # as a run leaves it that is killed while its results are put in place
    (stopped / "hfft.json").unlink()
    assert main(["sweep", *flags]) == 0
    assert capsys.readouterr().out.count("done before") == 3
    assert (stopped / "hfft.json").exists()


def test_a_wrong_option_stops_the_sweep_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--sweep", "learning_rate=1e-3,-1", "--output_dir", str(tmp_path / "sweep")]
    assert main(["sweep", *flags]) == 2
    assert "--learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_run_of_a_sweep_is_the_run_that_the_same_options_give_alone(
    pretrained: Folder, image_folder: Folder, tmp_path: Path, kind: str
) -> None:
    common = [
        *("--model_name_or_path", str(pretrained(kind)), "--train_dir", str(image_folder())),
        *("--num_train_epochs", "2", "--per_device_train_batch_size", "5", "--augment", "crop", "--cache", "memory"),
    ]
    grid = ["--sweep", "seed=3,4", "learning_rate=1e-3,1e-2"]
    assert main(["sweep", *common, *grid, "--output_dir", str(tmp_path / "sweep")]) == 0
    for seed in ("3", "4"):
        alone = tmp_path / f"alone-{seed}"
        flags = [*common, "--seed", seed, "--learning_rate", "1e-2", "--output_dir", str(alone)]
        assert main(["finetune", *flags]) == 0
        swept = tmp_path / "sweep" / f"seed={seed},learning_rate=1e-2"
        assert (swept / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
        records = [json.loads((folder / "hfft.json").read_text()) for folder in (swept, alone)]
        for part in ("metrics", "per_class", "mistakes", "data", "base", "anatomy", "frozen", "files"):
            assert records[0][part] == records[1][part], part


def test_runs_share_what_they_have_in_common_and_nothing_else(image_folder: Folder, pretrained: Folder) -> None:
    data, model = DataArguments(train_dir=str(image_folder())), ModelArguments(str(pretrained("resnet")))
    shared = Shared()
    sets = shared.images(data, 0)
    assert shared.images(DataArguments(train_dir=data.train_dir), 0) is sets
    assert shared.images(data, 1) is not sets
    first, second = (shared.model(model, sets.labels, 0)[0] for _ in range(2))
    before = second.state_dict()["classifier.1.weight"].clone()
    with torch.no_grad():
        first.get_parameter("classifier.1.weight").add_(1)
    assert torch.equal(second.state_dict()["classifier.1.weight"], before)
    assert torch.equal(shared.model(model, sets.labels, 0)[0].state_dict()["classifier.1.weight"], before)
    assert not torch.equal(shared.model(model, sets.labels, 1)[0].state_dict()["classifier.1.weight"], before)


def test_a_sweep_says_once_what_the_check_finds(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--num_train_epochs", "1", "--output_dir", str(tmp_path / "sweep"), "--sweep", "learning_rate=1e-3,1e-2"]
    assert main(["sweep", *flags, *given]) == 0
    assert capsys.readouterr().out.count("with fewer than 10 training images") == 1
    for name in ("curves.png", "confusion_matrix.png", "reliability.png", "mistakes.png"):
        assert not list((tmp_path / "sweep").glob(f"*/{name}"))
    assert "](curves.png)" not in next((tmp_path / "sweep").glob("*/README.md")).read_text()


def test_names_that_collide_get_a_number() -> None:
    runs = [{"model_name_or_path": name} for name in ("m/x", "m-x", "M/X", "y")]
    names = folder_names(runs)
    assert names == [f"model_name_or_path={end}" for end in ("m-x", "m-x-2", "M-X-3", "y")]


def test_only_the_same_run_counts_as_done(
    pretrained: Folder, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model_name_or_path", str(pretrained("resnet")), "--train_dir", str(image_folder())]
    flags += ["--output_dir", str(tmp_path / "sweep"), "--sweep", "learning_rate=1e-3"]
    folder = tmp_path / "sweep" / "learning_rate=1e-3"

    def again(*others: str) -> str:
        assert main(["sweep", *flags, "--num_train_epochs", "1", *others]) == 0
        return capsys.readouterr().out

    again()
    first = (folder / "hfft.json").read_bytes()
    assert "done before" in again("--logging_steps", "3")  # which does not change what comes out
    assert (folder / "hfft.json").read_bytes() == first
    assert "trained anew, since its folder holds a run with other num_train_epochs, plan\n" in again(
        "--num_train_epochs", "2"
    )
    assert json.loads((folder / "hfft.json").read_text())["arguments"]["num_train_epochs"] == 2
    assert "a run with other policy, num_train_epochs, plan\n" in again("--policy", "head")
    other = image_folder("other", per_class=8, seed=5)
    said = again("--policy", "head", "--train_dir", str(other))
    assert "a run with other training images, validation images\n" in said
    record = json.loads((folder / "hfft.json").read_text())
    del record["identity"]
    (folder / "hfft.json").write_text(json.dumps(record))
    said = again("--policy", "head", "--train_dir", str(other))
    assert "holds a run that does not say of what it was" in said


def test_a_sweep_leaves_the_settings_of_its_caller_alone(flags: list[str], tmp_path: Path) -> None:
    given: list[Settings] = []

    def parse_run(flags: list[str]) -> Settings:
        given.append(finetune_settings(flags))
        return given[-1]

    assert sweep([*flags, "--num_train_epochs", "1"], [{}], tmp_path / "sweep", parse_run, print) == 0
    training = given[0].training
    assert (training.overwrite_output_dir, training.baselines, training.figures) == (False, "probe", True)


def test_a_sweep_that_is_told_to_end_begins_no_other_run(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def stopped(settings: Settings, *_: Any, **__: Any) -> None:
        begun.append(settings.training.seed)
        raise PreemptedError("stopped by SIGTERM")

    monkeypatch.setattr("hfft.jobs.sweep.finetune", stopped)
    assert main(["sweep", *flags, "--output-dir", str(tmp_path / "sweep"), "--sweep", "seed=1,2"]) == 143
    assert begun == [1]


def test_a_run_that_fails_in_pytorch_costs_no_other_run(
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def limited(settings: Settings, *given: Any, **options: Any) -> Any:
        if settings.training.per_device_train_batch_size > 4:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB.\n")
        return finetune(settings, *given, **options)

    monkeypatch.setattr("hfft.jobs.sweep.finetune", limited)
    flags = [*flags, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "sweep")]
    assert main(["sweep", *flags, "--sweep", "per_device_train_batch_size=8,4"]) == 1
    assert "=8 failed: OutOfMemoryError: tried to allocate 20 GiB\n" in capsys.readouterr().out
    with (tmp_path / "sweep" / "sweep.csv").open(newline="") as file:
        assert [row["per_device_train_batch_size"] for row in csv.DictReader(file)] == ["4"]


def test_the_table_is_said_before_it_is_written(
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hfft.jobs.sweep.write_sweep", full)
    flags = [*flags, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "sweep")]
    assert main(["sweep", *flags, "--sweep", "policy=head"]) == 1
    said = capsys.readouterr()
    assert "policy=head" in said.out.splitlines()[-4]
    assert "no room is left" in said.err


def test_what_the_images_decide_is_done_before_as_well(
    pretrained: Folder,
    image_folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A second sweep finds the runs whose policy and whose epochs were left to the images."""
    monkeypatch.setattr(amount, "MOST_EPOCHS", 2)
    flags = [
        "--model_name_or_path",
        pretrained("resnet"),
        "--train_dir",
        image_folder(),
        "--output_dir",
        tmp_path / "out",
    ]
    given = ["sweep", *map(str, flags), "--sweep", "policy=auto,head", "num_train_epochs=auto,1"]
    assert main(given) == 0
    records = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/hfft.json")}
    assert len(records) == 4
    decided = records["policy=auto,num_train_epochs=auto"]["decisions"]
    assert [line.partition(":")[0] for line in decided[:2]] == ["Policy auto", "Epochs auto"]
    (line,) = records["policy=head,num_train_epochs=1"]["decisions"]
    assert line.startswith("Keep auto: ")
    capsys.readouterr()
    assert main(given) == 0
    assert capsys.readouterr().out.count("done before") == 4


def test_a_soup_of_a_sweep_is_a_run(flags: list[str], tmp_path: Path) -> None:
    flags = [*flags, "--num_train_epochs", "2", "--per_device_train_batch_size", "6", "--train_val_split", "0.4"]
    flags = [*flags, "--output_dir", str(tmp_path / "sweep"), "--sweep", "learning_rate=1e-3,1e-2"]
    assert main(["sweep", *flags, "--soup"]) == 0
    soup = read_record(tmp_path / "sweep" / "soup" / "hfft.json")
    others = [read_record(path) for path in (tmp_path / "sweep").glob("learning_rate=*/hfft.json")]
    accuracy = soup.metrics["validation"].values["accuracy"]
    assert accuracy >= max(record.metrics["validation"].values["accuracy"] for record in others)
    assert soup.optimistic("validation")
    assert "of 4 weights of the sweep" in soup.decisions[0]
    assert soup.frozen is not None
    assert soup.frozen.unchanged
    model, _ = load(tmp_path / "sweep" / "soup")
    before = model.state_dict()
    # Runs that are there already take part with the weights that they handed back.
    assert main(["sweep", *flags, "--soup"]) == 0
    again = read_record(tmp_path / "sweep" / "soup" / "hfft.json")
    assert "of 2 weights of the sweep" in again.decisions[0]
    assert load(tmp_path / "sweep" / "soup")[0].state_dict().keys() == before.keys()


def test_a_sweep_takes_no_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ArgumentError, match="takes no launcher"):
        sweep(["--train_dir", "images"], [{}], tmp_path / "sweep", finetune_settings, print)
    assert not (tmp_path / "sweep").exists()
