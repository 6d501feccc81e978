"""ONNX export: the file says what PyTorch says, on any batch size, or it is not there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from finished import LABELS, make_images, make_model, run_finetune
from torch import Tensor

from hfft.arguments import ExportArguments
from hfft.cli import main
from hfft.data.images import open_image
from hfft.data.preprocessing import collate
from hfft.demo import ANIMALS, embedded_model
from hfft.errors import HfftError, ModelError
from hfft.inference import onnx as exporting
from hfft.inference.classifier import Classifier, find_images, load_classifier
from hfft.inference.onnx import Parity, check_images, export
from hfft.models.checkpoint import save_checkpoint
from hfft.models.forward import logits_of


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("export") / "images", count=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exported(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parity]:
    target = tmp_path_factory.mktemp("exported") / "x.onnx"
    return export(model, ExportArguments(images=str(images), output_file=str(target)))


def check_batches(folder: Path, images: Path, path: Path) -> None:
    classifier = load_classifier(folder, device="cpu")
    pixels = [classifier.pixels(open_image(file, file)) for file in find_images([images])]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5, 7, 9):
        inputs = collate(pixels[:count])
        (found,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
        assert np.allclose(found, classifier.logits(inputs).numpy(), atol=1e-4)


def test_agrees_with_pytorch_at_any_batch_size(model: Path, images: Path, exported: tuple[Path, Parity]) -> None:
    path, parity = exported
    assert (parity.images, parity.same_labels) == (9, 9)
    assert parity.difference <= 1e-4 * max(1.0, parity.scale)
    check_batches(model, images, path)


@pytest.mark.parametrize(
    "kind", ["swin", "convnext", "timm", "timm-convnext", pytest.param("resnet", marks=pytest.mark.slow)]
)
def test_other_models(pretrained: Callable[[str], Path], images: Path, tmp_path: Path, kind: str) -> None:
    folder = pretrained(kind)
    path, _ = export(folder, ExportArguments(images=str(images), output_file=str(tmp_path / "x.onnx")))
    check_batches(folder, images, path)


def test_metadata_is_enough_to_use_it(exported: tuple[Path, Parity]) -> None:
    loaded = onnx.load(exported[0])
    metadata = {item.key: item.value for item in loaded.metadata_props}
    preprocessing = json.loads(metadata["preprocessing"])
    assert json.loads(metadata["labels"]) == list(LABELS)
    assert preprocessing["color"] == "RGB"
    assert preprocessing["inputs"] == {"pixel_values": ["batch", 3, 32, 32]}
    assert preprocessing["processor"]["image_mean"] == [0.5, 0.5, 0.5]
    assert [node.name for node in loaded.graph.input] == ["pixel_values"]
    assert loaded.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_another_model_is_refused_and_removed(
    exported: tuple[Path, Parity],
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: float,
) -> None:
    def write_as_before(classifier: Classifier, inputs: dict[str, Tensor], path: Path) -> None:
        shutil.copyfile(exported[0], path)

    honest = logits_of
    monkeypatch.setattr(exporting, "write_onnx", write_as_before)
    monkeypatch.setattr("hfft.inference.onnx.logits_of", lambda outputs: honest(outputs) + wrong)
    with pytest.raises(ModelError, match=r"the exported model is not the model: on 9 images .* was not written"):
        export(model, ExportArguments(images=str(images), output_file=str(tmp_path / "x.onnx")))
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_traced(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise NotImplementedError("an operator\nthat nobody knows")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ModelError, match="cannot be exported to ONNX: an operator that nobody knows"):
        export(model, ExportArguments(images=str(images), output_file=str(tmp_path / "x.onnx")))
    assert not list(tmp_path.iterdir())


def test_images_of_the_check(images: Path, tmp_path: Path) -> None:
    run_finetune(make_model(tmp_path / "base"), images, tmp_path / "output", "head")
    classifier = load_classifier(tmp_path / "output")
    found, source = check_images(classifier, ExportArguments(check_images=4))
    assert (len(found), source) == (4, "images, validation")
    images.rename(tmp_path / "moved")
    found, source = check_images(classifier, ExportArguments(check_images=4))
    assert (len(found), source) == (4, "animal-mnist, validation")
    (tmp_path / "moved").rename(images)
    found, source = check_images(classifier, ExportArguments(images=str(images / "red" / "0.png")))
    assert len(found) == 2, "a batch of one would become the only batch size"


def test_command(
    exported: tuple[Path, Parity],
    model: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "write_onnx", lambda classifier, inputs, path: shutil.copyfile(exported[0], path))
    output = ["--output_file", str(tmp_path / "new" / "x.onnx")]
    assert main(["export", str(model), "--images", str(images), *output]) == 0
    captured = capsys.readouterr()
    assert "differ from PyTorch's by at most" in captured.out
    assert "9 of 9 labels agree" in captured.out
    assert captured.err == ""
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.onnx"]


def test_missing_packages(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(model)]) == 2
    assert 'pip install "hfft[onnx]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "{tmp}"}, "holds no images"),
        ({"images": "{tmp}/none.png"}, "cannot read the image"),
        ({"output_file": "{tmp}"}, "is a folder"),
        ({"output_file": "{model}/config.json/x.onnx"}, "cannot make the folder"),
    ],
)
def test_errors(model: Path, images: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    given = {name: value.format(tmp=tmp_path, model=model) for name, value in options.items()}
    with pytest.raises(HfftError, match=message):
        export(model, ExportArguments(**({"images": str(images)} | given)))  # type: ignore[arg-type]
    assert not list(model.glob("*.onnx"))


@pytest.mark.parametrize("options", [{"check_images": 0}, {"tolerance": -1.0}])
def test_wrong_options(options: dict[str, float]) -> None:
    with pytest.raises(HfftError, match=next(iter(options))):
        ExportArguments(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_embedded_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, processor = embedded_model(ANIMALS)
    save_checkpoint(model, processor, tmp_path)
    assert main(["export", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "16 images (animal-mnist, validation)" in printed
    assert float(re.findall(r"at most ([\d.e-]+)", printed)[0]) < 1e-4
