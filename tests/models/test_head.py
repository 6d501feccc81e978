"""A pretrained head of the right shape: its rows follow names, or it is drawn anew and that is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hfft.arguments import ModelArguments
from hfft.cli import main
from hfft.errors import ModelError
from hfft.models.head import class_axes
from hfft.models.load import load_model

KINDS = ("resnet", "vit", "swin", "timm")


def named(folder: Path, names: list[str]) -> str:
    """A model with a head for these classes, every row of another number."""
    model, processor, _ = load_model(ModelArguments(model_name_or_path=str(folder)), names)
    with torch.no_grad():
        for parameter in list(model.parameters())[-2:]:
            values = torch.arange(1.0, len(names) + 1)
            parameter.copy_(values[:, None].expand_as(parameter) if parameter.dim() > 1 else values)
    target = folder.parent / "named"
    model.save_pretrained(target)
    processor.save_pretrained(target)
    return str(target)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_follow_their_names(pretrained: Callable[[str], Path], kind: str) -> None:
    place = named(pretrained(kind), ["x", "y", "z"])
    for labels in (["x", "y", "z"], ["z", "x", "y"]):
        model, _, base = load_model(ModelArguments(model_name_or_path=place), labels)
        *_, weight, bias = model.parameters()
        assert bias.tolist() == [1 + "xyz".index(label) for label in labels]
        assert weight[:, 0].tolist() == bias.tolist()
        assert len(base.notes) == (labels[0] == "z")
        assert base.fresh == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_for_other_classes_is_drawn_anew(pretrained: Callable[[str], Path], kind: str) -> None:
    place = named(pretrained(kind), ["x", "y", "z"])
    torch.manual_seed(0)
    model, _, base = load_model(ModelArguments(model_name_or_path=place), ["x", "y", "w"])
    *_, weight, bias = model.parameters()
    assert weight.abs().max() < 1
    assert weight.std() > 0
    assert bias.abs().max() < 1
    assert "drawn anew" in base.notes[0]
    assert len(base.fresh) == 2


def test_the_head_of_the_embedded_model_is_new() -> None:
    model, _, base = load_model(ModelArguments(), ["x", "y", "z"])
    assert base.fresh == tuple(sorted(name for name, axis in class_axes(model, 3).items()))


def test_a_folder_that_is_no_whole_model_says_what_it_lacks(pretrained: Callable[[str], Path], tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(ModelError) as caught:
            load_model(ModelArguments(model_name_or_path=str(folder)), ["a", "b"])
        assert "above report" not in str(caught.value)
        return str(caught.value)

    whole = pretrained("resnet")
    adapter, lone, pickled, hollow = (tmp_path / name for name in ("adapter", "lone", "pickled", "hollow"))
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert "merge it into its base" in refused(adapter)
    shutil.copytree(whole, lone)
    (lone / "preprocessor_config.json").unlink()
    assert "no image processor" in refused(lone)
    for folder in (pickled, hollow):
        shutil.copytree(whole, folder)
        (folder / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    assert "--allow_pickle" in refused(pickled)
    assert "--allow_pickle" not in refused(hollow)
    (tmp_path / "weights.pth").write_bytes(b"x")
    assert "is a file" in refused(tmp_path / "weights.pth")


def test_an_address_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "https://example.org/cat.png"]) == 2
    assert "https://example.org/cat.png is an address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json' is not a valid JSON file; mend its files, or copy the model"),
        ("config.json", '{"model_type": "none"}', r"model type `none` .* \[...\]; mend its files, or copy the model"),
        ("config.json", '{"model_type": "resnet", "depths": "a"}', "field 'depths'.*; mend its files"),
        ("preprocessor_config.json", '{"size": {"shortest_edge": -3}}', "cannot prepare an image: .*; check sizes"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(
    pretrained: Callable[[str], Path], tmp_path: Path, file: str, content: str, message: str
) -> None:
    shutil.copytree(pretrained("resnet"), tmp_path / "model")
    (tmp_path / "model" / file).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelArguments(model_name_or_path=str(tmp_path / "model")), ["a", "b"])
    assert "revision" not in str(caught.value)
