"""A stream from a Hub on the loopback interface gives the run that the same images in folders give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from fake_hub import WRITE_TOKEN, FakeHub
from finished import make_images, make_model

from hfft.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning"),  # the client's own
    pytest.mark.processes,
]

REPO = "writer/photos"
LIMITS = ("--max_train_samples", "18", "--max_eval_samples", "9")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub that holds a data set: a folder for each split, with one folder of images per class."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    for split, count in (("train", 6), ("validation", 3)):
        make_images(tmp_path / "photos" / split, count=count)
    make_model(tmp_path / "base", ("one", "two"), seed=1)
    with FakeHub() as server:
        api = huggingface_hub.HfApi(endpoint=server.url, token=WRITE_TOKEN)
        api.create_repo(REPO, repo_type="dataset")
        api.upload_folder(repo_id=REPO, folder_path=str(tmp_path / "photos"), repo_type="dataset")
        server.heal()
        yield server


def _flags(tmp_path: Path, output: str, *flags: str) -> list[str]:
    common = ["--num_train_epochs", "1", "--disable_tqdm", "true", "--baselines", "none", "--figures", "false"]
    places = ["--model_name_or_path", str(tmp_path / "base"), "--output_dir", str(tmp_path / output)]
    return ["finetune", *places, *common, *flags]


def _streamed(hub: FakeHub, tmp_path: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its users do; datasets reads HF_ENDPOINT once, when it is imported."""
    settings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    settings |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    flags = _flags(tmp_path, "streamed", "--dataset_name", name, "--streaming", "true", *LIMITS)
    command = [sys.executable, "-m", "hfft", *flags]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=3600)


def test_a_stream_gives_the_run_that_folders_give(hub: FakeHub, tmp_path: Path) -> None:
    streamed = _streamed(hub, tmp_path, REPO)
    assert streamed.returncode == 0, streamed.stderr
    assert hub.count(r"GET /datasets/writer/photos/resolve/.*\.png") == 27
    place = tmp_path / "photos"
    folders = ["--train_dir", str(place / "train"), "--validation_dir", str(place / "validation"), *LIMITS]
    assert main(_flags(tmp_path, "folders", *folders)) == 0
    ours, theirs = (json.loads((tmp_path / name / "hfft.json").read_text()) for name in ("streamed", "folders"))
    for part in ("files", "metrics", "per_class", "frozen"):
        assert ours[part] == theirs[part], part
    assert ours["data"]["labels"] == theirs["data"]["labels"]
    assert ours["data"]["sha256"] == theirs["data"]["sha256"]
    assert ours["data"]["on_hub"]


def test_a_data_set_that_is_not_there(hub: FakeHub, tmp_path: Path) -> None:
    done = _streamed(hub, tmp_path, "writer/nothing")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hfft: error: --dataset_name writer/nothing: cannot be loaded")
