"""Local paths are taken out of records, cards and deltas; what only looks like one stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hfft.errors import ModelError
from hfft.hub.local_paths import LocalPaths


def _record(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "arguments": {"train_dir": "/home/me/secret client/photos/", "output_dir": "clientx/outputs/run", "seed": 3},
        "base": {"id": "/srv/models/resnet"},
        "data": {"name": "photos", "skipped": ["/mnt/x/bad.png"], "labels": ["/m/01abc", "cat"]},
        "mistakes": [{"file": "/mnt/x/1.png", "label": "/m/01abc"}],
    }
    return plain | changes


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/secret client/photos", "photos"),
        ("/home/me/secret client/photos/cat/1.png", "photos/cat/1.png"),
        ("in (/srv/models/resnet), 3", "in (resnet), 3"),
        ("/srv/models/resnet50", "/srv/models/resnet50"),
        ("https://example.org/srv/models/resnet", "https://example.org/srv/models/resnet"),
        ("/m/01abc", "/m/01abc"),
        ("clientx/outputs/run", "run"),
    ],
)
def test_absolute_paths_become_names(text: str, left: str) -> None:
    assert LocalPaths(_record()).without(text) == left


def test_the_home_folder_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me_too")
    paths = LocalPaths(_record(base={"id": "C:\\Users\\me\\base"}))
    assert paths.without("the disk at /home/me_too/.cache/hfft allows 1 GB") == "the disk at ~/.cache/hfft allows 1 GB"
    assert paths.without(r"the disk at /home/me\_too/.cache/hfft") == "the disk at ~/.cache/hfft"  # as Markdown has it
    assert paths.without_in({"id": "C:\\Users\\me\\base"}) == {"id": "base"}


def test_a_home_that_is_the_root_hides_no_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")  # of users that a container does not know
    assert LocalPaths(_record()).without("12 / 20, <br />, /home/me") == "12 / 20, <br />, /home/me"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("../w/train/cat/1.png", "train/cat/1.png"),
        ("clients/secret/val", "val"),
        ("clients/secret/cache", "cache"),
        ("models/resnet", "resnet"),
        ("clients/list.csv", "list.csv"),
        ("../elsewhere/1.png", "1.png"),
        ("clients/x/photos/bee/1.png", "photos/bee/1.png"),
        ("microsoft/resnet-18", "microsoft/resnet-18"),
    ],
)
def test_relative_paths_become_names(text: str, left: str) -> None:
    options = {"train_dir": "../w/train", "validation_dir": "clients/secret/val", "cache_dir": "clients/secret/cache"}
    options |= {"dataset_name": "clients/list.csv", "model_name_or_path": "models/resnet"}  # from wherever it is pushed
    mistakes = [{"file": "../elsewhere/1.png"}, {"file": "clients/x/photos/bee/1.png"}]  # the latter of an extended run
    assert LocalPaths(_record(arguments=options, base={"id": "models/resnet"}, mistakes=mistakes)).without(text) == left


def test_names_on_the_hub_stay() -> None:
    options = {"model_name_or_path": "microsoft/resnet-18", "dataset_name": "uoft-cs/cifar10"}
    data = {"name": "uoft-cs/cifar10", "on_hub": True}
    record = _record(arguments=options, base={"id": "microsoft/resnet-18", "on_hub": True}, data=data)
    paths = LocalPaths(record)
    assert paths.without_in(options) == options
    assert paths.without("microsoft/resnet-18") == "microsoft/resnet-18"


def test_json_keeps_its_bytes_where_there_is_nothing_to_hide() -> None:
    paths = LocalPaths(_record())
    assert paths.json('{"a":  [1, "b"]}') == '{"a":  [1, "b"]}'
    cleared = json.loads(paths.json(json.dumps(_record())))
    assert cleared["arguments"] == {"train_dir": "photos/", "output_dir": "run", "seed": 3}
    assert cleared["data"] == {"name": "photos", "skipped": ["bad.png"], "labels": ["/m/01abc", "cat"]}
    assert cleared["mistakes"] == [{"file": "1.png", "label": "/m/01abc"}]


def test_known_images_keep_the_end_of_their_names(tmp_path: Path) -> None:
    files = ["/home/me/secret client/photos/cat/1.png", "clients/x/photos/bee/1.png", "/mnt/y/2.png", "cat/3.png"]
    save_file({"rows": torch.ones(4)}, tmp_path / "known.safetensors", {"hfft": json.dumps({"files": files})})
    (tmp_path / "sent.safetensors").write_bytes(LocalPaths(_record()).known(tmp_path / "known.safetensors"))
    with safe_open(tmp_path / "sent.safetensors", "pt") as sent:
        about = json.loads(sent.metadata()["hfft"])
    assert about["files"] == ["photos/cat/1.png", "photos/bee/1.png", "2.png", "cat/3.png"]


def test_a_damaged_delta(tmp_path: Path) -> None:
    (tmp_path / "delta.safetensors").write_bytes(b"\x05\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ModelError, match="it is not as hfft wrote it"):
        LocalPaths(_record()).delta(tmp_path / "delta.safetensors")
