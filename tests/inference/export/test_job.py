"""`hfft export`: a file says what PyTorch says, of images of any size and number, or it is not there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from finished import LABELS
from PIL import Image
from versions import OLD_RESIZE

from hfft.arguments import ExportArguments
from hfft.cli import main
from hfft.data.preprocessing import collate
from hfft.errors import HfftError, ModelError
from hfft.inference.classifier import classify, load_classifier
from hfft.inference.export import job
from hfft.inference.export.formats import Parts, open_onnx
from hfft.inference.export.images import RealImages, held_out_images, training_images
from hfft.inference.export.job import Exported, export, parts_of
from hfft.inference.export.parity import Parity, compare, expected_of, require
from hfft.output_folder import discard


@pytest.fixture(scope="module")
def parts(trained: Path) -> Parts:
    """The graphs of the run, made once: tracing takes seconds."""
    classifier, options = load_classifier(trained, device="cpu"), ExportArguments()
    return parts_of(classifier, held_out_images(classifier, options), lambda: job._calibration(classifier, options))


@pytest.fixture(scope="module")
def exported(trained: Path, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    target = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "parts_of", lambda *rest: parts)
        done = export(trained, ExportArguments(to=["onnx", "int8"], output_dir=str(target)))
    return {each.parity.format: each for each in done}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def test_any_size_and_any_number_of_images(trained: Path, exported: dict[str, Exported]) -> None:
    run, classifier = open_onnx(exported["onnx"].folder), load_classifier(trained, device="cpu")
    assert classifier.known is not None
    for number, (height, width) in enumerate(((32, 32), (75, 40), (200, 311))):
        images = np.stack([noise(height, width, seed) for seed in range(number + 1)])
        found = run(images)
        inputs = collate([classifier.pixels(Image.fromarray(image)) for image in images])
        logits, compared = classifier.outputs(inputs)
        assert compared is not None
        assert found["logits"] == pytest.approx(logits.numpy(), abs=1e-2 if OLD_RESIZE else 5e-3)
        assert found["probabilities"] == pytest.approx(classifier.probabilities(logits), abs=5e-3)
        assert found["unknown_score"] == pytest.approx([each.score for each in compared], rel=2e-2)


def test_the_report_is_printed_and_written(exported: dict[str, Exported]) -> None:
    for name, each in exported.items():
        written = json.loads((each.folder / "parity.json").read_text())
        assert written["producer"].startswith("hfft ")
        assert written["format"] == name
        assert (written["images"], written["source"]) == (18, "images, validation")
        assert written["megabytes"] == pytest.approx((each.folder / "model.onnx").stat().st_size / 1e6, rel=0.01)
        assert 0 < written["milliseconds"] < 1000
        assert "of 18 images (images, validation) get PyTorch's answer, " in each.describe()
    assert exported["onnx"].parity.same_labels == 18
    assert exported["onnx"].parity.same_unknown in (17, 18)  # the largest known distance is that of one of these images
    assert exported["onnx"].parity.difference < 0.01
    assert exported["int8"].parity.accuracy == pytest.approx(exported["int8"].parity.torch_accuracy, abs=0.005)


def test_int8_is_int8(exported: dict[str, Exported]) -> None:
    kinds = {node.op_type for node in onnx.load(exported["int8"].folder / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    types = {tensor.data_type for tensor in onnx.load(exported["int8"].folder / "model.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in types


def test_the_page_on_serving_configures_triton_for_this_file(exported: dict[str, Exported]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    written = re.findall(r'name: "(\w+)" data_type: TYPE_(\w+) dims: \[ ([-\d, ]+) \]', page)
    graph = onnx.load(exported["onnx"].folder / "model.onnx").graph
    found = []
    for value in (*graph.input, *graph.output):
        kind = {onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.FLOAT: "FP32"}[value.type.tensor_type.elem_type]
        sizes = ", ".join(str(each.dim_value or -1) for each in value.type.tensor_type.shape.dim)
        found.append((value.name, kind, sizes))
    ten = str(len(LABELS))  # the page's run has ten labels
    assert [(name, kind, dims.replace("10", ten)) for name, kind, dims in written] == found


def test_metadata_is_enough_to_use_it(exported: dict[str, Exported], trained: Path) -> None:
    loaded = onnx.load(exported["onnx"].folder / "model.onnx")
    metadata = {item.key: item.value for item in loaded.metadata_props}
    assert json.loads(metadata["labels"]) == list(LABELS)
    assert json.loads(metadata["card"])["policy"] == "last_block"
    assert json.loads(metadata["card"])["metrics"]["validation"]["accuracy"] > 0
    (images,) = loaded.graph.input
    shape = [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]
    assert (images.name, shape) == ("images", ["batch", "height", "width", 3])
    assert [output.name for output in loaded.graph.output] == ["logits", "probabilities", "unknown_score"]
    assert str(trained.parent).encode() not in (exported["onnx"].folder / "model.onnx").read_bytes()
    assert b"site-packages" not in (exported["onnx"].folder / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    "kind", ["swin", "timm", *(pytest.param(each, marks=pytest.mark.slow) for each in ("convnext", "resnet"))]
)
def test_other_models(pretrained: Callable[[str], Path], images: Path, tmp_path: Path, kind: str) -> None:
    (done,) = export(pretrained(kind), ExportArguments(images=str(images), output_dir=str(tmp_path / "out")))
    assert done.parity.same_labels == done.parity.images == 18


def test_openvino(trained: Path, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    monkeypatch.setattr(job, "parts_of", lambda *rest: parts)
    (done,) = export(trained, ExportArguments(to=["openvino"], output_dir=str(tmp_path)))
    assert {"model.xml", "model.bin", "parity.json"} <= {file.name for file in done.folder.iterdir()}
    assert "hfft" in (done.folder / "model.xml").read_text()


@pytest.mark.parametrize("wrong", [3.0, float("nan")])
def test_another_model_is_refused_and_removed(
    trained: Path, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    core = onnx.ModelProto()
    core.CopyFrom(parts.core)
    head = next(each for each in core.graph.initializer if each.name.endswith("classifier.weight"))
    head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head) * np.float32(wrong), head.name))
    monkeypatch.setattr(job, "parts_of", lambda *rest: replace(parts, core=core))
    with pytest.raises(ModelError, match=r"the onnx export is not the model: 1?\d of 18 .*the bound is .*not kept"):
        export(trained, ExportArguments(output_dir=str(tmp_path / "out")))
    assert not list(tmp_path.iterdir())


def test_int8_that_loses_accuracy_is_refused(exported: dict[str, Exported], trained: Path) -> None:
    classifier = load_classifier(trained, device="cpu")
    expected = expected_of(classifier, held_out_images(classifier, ExportArguments()))
    run = open_onnx(exported["int8"].folder)

    def worse(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: rows[:, ::-1] if rows.ndim == 2 else rows for name, rows in run(images).items()}

    parity = compare("int8", worse, expected, exported["int8"].folder, None)
    with pytest.raises(ModelError, match=r"the bound is accuracy within 0\.5 points of PyTorch's"):
        require(parity, None)


def test_images_of_check_and_calibration(trained: Path, images: Path, tmp_path: Path) -> None:
    classifier = load_classifier(trained)
    found = held_out_images(classifier, ExportArguments(check_images=4))
    assert (found.count, found.source) == (4, "images, validation")
    assert found.truth is not None
    assert training_images(classifier, ExportArguments(calibration_images=5)).count == 5
    moved = images.rename(tmp_path / "moved")
    try:
        found = held_out_images(classifier, ExportArguments(check_images=4))
        assert (found.count, found.source, found.truth) == (4, "animal-mnist, test", None)
        with pytest.raises(HfftError, match="int8 is calibrated with the training images, which cannot be read here"):
            training_images(classifier, ExportArguments())
        given = training_images(classifier, ExportArguments(images=str(moved), calibration_images=2))
        assert given.count == 2
    finally:
        moved.rename(images)


def test_a_model_that_cannot_be_traced(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise NotImplementedError("an operator\nthat nobody knows")

    monkeypatch.setattr(torch.onnx, "export", fail)
    classifier = load_classifier(trained, device="cpu")
    one = RealImages(1, lambda place: Image.new("RGB", (40, 40)), "here")
    with pytest.raises(ModelError, match="cannot be exported to ONNX: an operator that nobody knows"):
        parts_of(classifier, one, list)


def test_an_export_goes_with_the_run_and_leaves_what_is_the_users(
    exported: dict[str, Exported], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(job, "_write", partial(fake_write, exported["onnx"].parity))
    monkeypatch.setattr(job, "parts_of", lambda *rest: None)
    export(run, ExportArguments())
    export(run, ExportArguments())
    assert (run / "export" / "onnx" / "model.onnx").exists()
    (run / "export" / "onnx" / "mine.txt").write_text("mine")
    with pytest.raises(HfftError, match=r"onnx holds mine\.txt, not written by hfft"):
        export(run, ExportArguments())
    discard(run)
    assert [str(path.relative_to(run)) for path in sorted(run.rglob("*")) if path.is_file()] == ["export/onnx/mine.txt"]


def fake_write(parity: Parity, name: str, *rest: object) -> Exported:
    target = rest[-1]
    assert isinstance(target, Path)
    with job._staged(target / name) as folder:
        (folder / "model.onnx").write_bytes(b"x")
    return Exported(target / name, parity)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--to", "coreml"], 2, "hfft does not write --to coreml: its models run on macOS alone"),
        (["--to", "executorch"], 2, "the package executorch"),
        (["--to", "tflite"], 2, "litert-torch"),
        (["--to", "onx"], 2, "invalid choice: 'onx'"),
        (["--check_images", "0"], 2, "--check_images must be at least 1"),
        (["--tolerance", "-1"], 2, "--tolerance must lie between 0 and 1"),
        (["--images", "{tmp}"], 1, "holds no images"),
        (["--output_dir", "{tmp}/file/x"], 1, "cannot make the folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, words: str
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["export", str(trained), *(flag.format(tmp=tmp_path) for flag in flags)]) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not (trained / "export").exists()


@pytest.mark.processes
def test_missing_packages(trained: Path) -> None:
    class_ = (
        "class No: find_spec = staticmethod(lambda name, *_: exec('raise ImportError') if name in HIDDEN else None)"
    )
    without = (
        "import sys, importlib.util\nHIDDEN = {'onnx', 'onnxscript'}\n"
        f"{class_}\nsys.meta_path.insert(0, No)\nfound = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in HIDDEN else found(name, *rest)\n"
        "from hfft.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", without, "export", str(trained)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert told.stderr == 'hfft: error: --to onnx needs onnx, onnxscript: pip install "hfft[onnx]"\n'


def test_predictions_agree(exported: dict[str, Exported], trained: Path, images: Path) -> None:
    run, classifier = open_onnx(exported["onnx"].folder), load_classifier(trained, device="cpu")
    files = sorted(images.rglob("*.png"))
    for prediction in classify(classifier, files):
        shares = run(np.asarray(Image.open(prediction.file))[None])["probabilities"][0]
        assert LABELS[int(shares.argmax())] == prediction.label
