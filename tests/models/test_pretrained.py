"""Folders and names that hold no model that can be loaded: each is refused in a line, on every way to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfft.arguments import ModelArguments
from hfft.errors import ModelError
from hfft.models.checkpoint import load
from hfft.models.load import load_model

Folder = Callable[[str], Path]
LABELS = ("blue", "green", "red")


def changed(folder: Path, **settings: Any) -> Path:
    """Put settings into a folder's configuration."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def refused(folder: Path | str, reason: str) -> None:
    for way in (lambda: load_model(ModelArguments(model_name_or_path=str(folder)), LABELS), lambda: load(folder)):
        with pytest.raises(ModelError, match=reason):
            way()


def test_an_empty_file_of_the_processor_is_not_filled_with_defaults(pretrained: Folder) -> None:
    folder = pretrained("resnet")
    (folder / "preprocessor_config.json").write_text("{}")
    refused(folder, r"preprocessor_config\.json of '.*resnet' is empty; .*--image_processor_name")


def test_timm_does_without_that_file(pretrained: Folder) -> None:
    folder = pretrained("timm-convnext")
    (folder / "preprocessor_config.json").write_text("{}")
    assert load(folder)[0].config.pretrained_cfg["input_size"] == [3, 32, 32]


def test_quantised_weights_are_refused_before_their_library_is_asked_for(pretrained: Folder) -> None:
    quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    refused(changed(pretrained("vit"), quantization_config=quantised), "holds quantised weights")


@pytest.mark.parametrize("settings", ["x", {"input_size": 3}, {"input_size": []}, {"input_size": ["three", 32, 32]}])
def test_settings_of_timm_of_another_type(pretrained: Folder, settings: Any) -> None:
    refused(changed(pretrained("timm-convnext"), pretrained_cfg=settings), r"config\.json of .* garbles the size")


@pytest.mark.parametrize("content", [b"", b"no pickle at all"])
def test_a_damaged_pickle(pretrained: Folder, content: bytes) -> None:
    folder = pretrained("vit")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is damaged, or holds more than tensors; mend its files"):
        load_model(ModelArguments(model_name_or_path=str(folder), allow_pickle=True), LABELS)


@pytest.mark.parametrize("name", ["a" * 300, "~nobody-of-this-name/model", "a\0b"])
def test_names_that_no_file_system_has(name: str) -> None:
    refused(name, "Repo id must")


def test_home_is_known_where_no_shell_was(pretrained: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pretrained("resnet")
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(folder.parent))
    assert load_model(ModelArguments(model_name_or_path=f"~/{folder.name}"), LABELS)[2].name == str(folder)
