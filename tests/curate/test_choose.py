"""What to label next: unsure images first, no lesson twice, and nothing that has a label already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from finished import make_images

from hfft.cli import main
from hfft.curate.choose import most_teaching

from .conftest import Finished, train


def axes(*numbers: int) -> np.ndarray:
    """Unit vectors along some of eight axes."""
    return np.eye(8, dtype=np.float32)[list(numbers)]


FAST = ("--num_train_epochs", "1", "--use_cpu", "true", "--baselines", "none", "--figures", "false")
NONE = np.empty((0, 8), np.float32)
SURE, UNSURE = [0.98, 0.01, 0.01], [0.4, 0.35, 0.25]


def test_the_unsure_are_chosen_and_not_twice() -> None:
    features = axes(0, 0, 1, 1, 2, 3)
    probabilities = np.array([SURE, SURE, UNSURE, UNSURE, UNSURE, SURE])
    chosen = most_teaching(features, probabilities, 2, NONE).tolist()
    assert chosen[0] in (2, 3)  # what speaks for two images
    assert chosen[1] == 4  # not the other one of the same kind, and no sure one


def test_what_labelled_images_are_near_to_teaches_little() -> None:
    features, probabilities = axes(1, 1, 1, 2), np.array([UNSURE] * 4)
    assert most_teaching(features, probabilities, 1, NONE).tolist()[0] < 3
    assert most_teaching(features, probabilities, 1, axes(1)).tolist() == [3]


def test_all_are_chosen_where_there_are_fewer() -> None:
    random = np.random.default_rng(1)
    features = random.normal(0, 1, (30, 8)).astype(np.float32)
    probabilities = random.dirichlet(np.ones(4), 30)
    assert sorted(most_teaching(features, probabilities, 99, NONE).tolist()) == list(range(30))
    same = np.tile(features[:1], (5, 1))
    assert sorted(most_teaching(same, np.tile(probabilities[:1], (5, 1)), 5, NONE).tolist()) == list(range(5))


def test_of_very_many_the_uncertain_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hfft.curate.choose.CANDIDATES", 3)
    probabilities = np.array([SURE, SURE, UNSURE, SURE, UNSURE, UNSURE])
    assert sorted(most_teaching(axes(0, 1, 2, 3, 4, 5), probabilities, 3, NONE).tolist()) == [2, 4, 5]


def test_labelled_images_join_and_nothing_is_computed_again(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = make_images(tmp_path / "seen", ("green",), 12) / "green"  # of which the run has some
    shutil.copy(finished.images / "red" / "2.png", new / "known.png")
    (new / "broken.png").write_bytes(b"no image")
    listed = tmp_path / "next.csv"
    argv = ["next", str(new), "--model", str(finished.output), "--count", "4", "--output", str(listed), "--json"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["result"]
    assert "Skipped 1 image that cannot be read" in err
    assert "Left out: 7 images that the run has already" in err
    assert len({each["image"] for each in found["chosen"]}) == 4
    assert all(each["prediction"] in ("blue", "green", "red") for each in found["chosen"])
    assert listed.read_text().startswith("rank,image,prediction,probability,margin,label\n1,seen/green/")
    images = shutil.copytree(finished.images, tmp_path / "photos")
    for each in found["chosen"]:
        shutil.copy(each["image"], images / "green" / f"new-{Path(each['image']).name}")
    cache = shutil.copytree(finished.output.parent / "cache", tmp_path / "cache")
    said: list[str] = []
    train(images, finished.base, cache.parent / "again", said)
    assert "22 of 22 rows were there already" in "\n".join(said)


def test_images_of_the_test_are_never_chosen(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_images(tmp_path / "photos" / "train").parent
    new = make_images(tmp_path / "photos" / "test", count=9) / "red"
    assert main(["finetune", "--dataset_name", str(folder), "--model_name_or_path", str(finished.base), *FAST,
                 "--output_dir", str(tmp_path / "run")]) == 0  # fmt: skip
    capsys.readouterr()
    assert main(["next", str(new), "--model", str(tmp_path / "run")]) == 1
    assert "the run has every one of its images already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--count", "0"], 2, "--count must be at least 1"),
        ([], 2, "give its folder with --model"),
        (["--model", "{base}"], 2, "is not a finished run"),
        (["--model", "{output}"], 1, "the run has every one of its images"),
        (["--model", "{output}", "--output", "x.parquet"], 2, "must end in .csv or .json"),
    ],
)
def test_wrong_options(
    flags: list[str], code: int, message: str, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [flag.format(base=finished.base, output=finished.output) for flag in flags]
    assert main(["next", str(finished.images), *given]) == code
    assert message in capsys.readouterr().err
