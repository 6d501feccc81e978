"""Predictions: in order, in batches, exactly what the model says, and never stopped by one bad file."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import LABELS, make_images, make_model
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor, pipeline
from versions import NUMBERS

import hfft
from hfft.cli import main
from hfft.errors import ArgumentError, DataError, ModelError
from hfft.inference.classifier import Classifier, Prediction, classify, find_images, load_classifier
from hfft.report.terminal import aligned


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_images(tmp_path_factory.mktemp("predict") / "images", count=2)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return load_classifier(model, device="cpu")


def test_what_stock_transformers_says(classifier: Classifier, model: Path, images: Path) -> None:
    files = find_images([images / "red"])
    stock = AutoModelForImageClassification.from_pretrained(model)
    processor = AutoImageProcessor.from_pretrained(model)
    pixels = processor([Image.open(file) for file in files], return_tensors="pt")
    with torch.no_grad():
        expected = stock(**pixels).logits.softmax(1)
    rows = list(classify(classifier, files))
    assert [row.label for row in rows] == [LABELS[index] for index in expected.argmax(1).tolist()]
    assert [row.probability for row in rows] == pytest.approx(expected.max(1).values.tolist(), abs=1e-6)
    assert [sum(score.probability for score in row.top) for row in rows] == pytest.approx([1, 1])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_order_and_errors_do_not_depend_on_the_batch_size(
    classifier: Classifier, images: Path, batch_size: int
) -> None:
    files = [*find_images([images]), str(images / "missing.png")]
    rows = list(classify(classifier, files, top_k=2, batch_size=batch_size))
    assert [row.file for row in rows] == files
    assert [Path(row.file).name for row in rows if row.error] == ["broken.png", "missing.png"]
    assert all(str(row.file) in row.error and not row.label and not row.top for row in rows if row.error)
    assert all(len(row.top) == 2 and row.label == row.top[0].label for row in rows if not row.error)


def test_open_images_in_any_mode(classifier: Classifier) -> None:
    opened = [Image.new(mode, (50, 30), 0) for mode in ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "F")]
    rows = list(classify(classifier, iter(opened)))
    assert [row.file for row in rows] == [f"image {number}" for number in range(1, len(opened) + 1)]
    assert not [row.error for row in rows if row.error]


def test_a_notebook_shows_a_line(classifier: Classifier, model: Path) -> None:
    assert repr(classifier) == f"Classifier({str(model)!r}, 3 classes)"


def test_a_folder_stands_for_its_images(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    single = images / "red" / "0.png"
    found = [each.file for each in classify(classifier, [images, str(images / "blue"), single])]
    assert found == find_images([images, images / "blue", single])
    with pytest.raises(DataError, match="holds no images"):
        list(classify(classifier, [tmp_path]))


def test_is_lazy(classifier: Classifier, images: Path) -> None:
    asked = []

    def sources() -> object:
        for file in find_images([images]):
            asked.append(file)
            yield file

    next(classify(classifier, sources(), batch_size=2))  # type: ignore[arg-type]
    assert len(asked) == 2


def test_find_images(images: Path, tmp_path: Path) -> None:
    found = find_images([images / "notes.txt", images])
    assert found[0] == str(images / "notes.txt"), "a file that is named counts, whatever it is"
    inside = [Path(file).relative_to(images).as_posix() for file in found[1:]]
    assert inside == [
        *("blue/0.png", "blue/1.png", "broken.png", "green/0.png", "green/1.png", "red/0.png", "red/1.png"),
    ]
    with pytest.raises(DataError, match="holds no images"):
        find_images([tmp_path])


def test_a_model_that_is_not_whole_is_refused(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("classifier.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"no tensor 'classifier\.weight'"):
        load_classifier(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_classifier(tmp_path)


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("option", ["top_k", "batch_size"])
def test_nothing_at_a_time_is_refused(classifier: Classifier, images: Path, option: str) -> None:
    with pytest.raises(ArgumentError, match=f"{option} must be a whole number of at least 1, not 0"):
        list(classify(classifier, find_images([images]), **{option: 0}))


def test_what_is_not_a_list_of_images_is_refused(classifier: Classifier, images: Path) -> None:
    file = images / "red" / "0.png"
    for one in (str(file), file, Image.open(file)):
        with pytest.raises(ArgumentError, match="give a list of files or images, for example"):
            classify(classifier, one)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="give a list of files or images, not None"):
        classify(classifier, None)  # type: ignore[arg-type]
    for other in (None, 3, b"x"):
        with pytest.raises(ArgumentError, match=r"image 2 is a \w+; give files or PIL images"):
            list(classify(classifier, [file, other]))  # type: ignore[list-item]
    with pytest.raises(
        ArgumentError, match=r"'outputs/x' is not a classifier: give what hfft\.load_classifier returns"
    ):
        list(classify("outputs/x", [file]))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^\(ViT.* is not a classifier"):  # on one line
        list(classify((classifier.model, None), [file]))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"--coverage must lie between 0 and 1, not 0\.9"):
        list(classify(classifier, [file], coverage="0.9"))  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "xpu"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ArgumentError, match=f"the device '{device}' cannot be used here"):
        load_classifier("outputs/x", device=device)


def test_what_a_model_has_no_numbers_for_is_an_error(classifier: Classifier, images: Path) -> None:
    """JSON has no word for them either."""
    model = copy.deepcopy(classifier.model)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(float("nan"))
    (found,) = classify(replace(classifier, model=model), [images / "red" / "0.png"])
    assert "not a number" in found.error
    far = Prediction("x", "red", 0.5, unknown=True, unknown_score=float("inf")).plain()
    assert far["unknown_score"] is None
    assert json.dumps(far, allow_nan=False)


def test_an_address_and_a_file_are_no_model(model: Path) -> None:
    place = "huggingface.co/owner/name"
    for address in (place, f"https://{place}", "https://hf.co/owner/name/tree/main"):
        with pytest.raises(ModelError, match=r"is an address; give the name of its repository, owner/name$"):
            load_classifier(address)
    file = model / "model.safetensors"
    with pytest.raises(ModelError, match=f"is a file; give its folder, {model}$"):
        load_classifier(file)


def test_what_is_no_folder_is_no_model() -> None:
    others: tuple[Any, ...] = (3, [], None, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU()))
    for other in others:
        with pytest.raises(ModelError, match=r"^.* is neither a folder nor the name of a repository"):
            hfft.load(other)
        with pytest.raises(ArgumentError, match=r"^.* is not the folder of a run"):
            hfft.extend(other, train_dir="photos")


def test_a_processor_that_is_none_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ModelError, match="cannot load ImageProcessor of"):
        load_classifier(tmp_path / "model")


def test_names_with_line_breaks_stay_in_a_line(
    capsys: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path
) -> None:
    shutil.copy(images / "red" / "0.png", tmp_path / "a\nb.png")
    code, out, _ = run_command(capsys, "--model", model, tmp_path)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "a\\nb.png" in out
    assert aligned(["class"], [["a\nb"]]) == ["class", "a\\nb"]


def test_csv(capsys: pytest.CaptureFixture[str], model: Path, images: Path) -> None:
    code, out, err = run_command(capsys, images, "--model", model, "--format", "csv", "--top_k", 2)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert list(rows[0]) == ["file", "label", "probability", "label_2", "probability_2", "error"]
    assert [row["file"] for row in rows] == find_images([images])
    assert sum(bool(row["error"]) for row in rows) == 1
    assert "1 of 7 images could not be read" in err


def test_jsonl(capsys: pytest.CaptureFixture[str], model: Path, images: Path) -> None:
    code, out, _ = run_command(capsys, images, "--model", model, "--format", "jsonl", "--batch_size", 2)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert all(len(row["top"]) == 3 and row["top"][0]["label"] == row["label"] for row in rows if not row["error"])


def test_table(capsys: pytest.CaptureFixture[str], model: Path, images: Path) -> None:
    code, out, _ = run_command(capsys, "--model", model, images / "red" / "0.png", images / "broken.png")
    header, first, second = out.splitlines()
    column = header.index("labels")
    assert code == 0
    assert second[column:].startswith("error: cannot read")
    assert sorted(first[column:].split()[::2]) == list(LABELS)


def test_without_a_model_it_is_said_which_one_answers(
    capsys: pytest.CaptureFixture[str], model: Path, images: Path
) -> None:
    for more in ((), ("--json",)):
        _, out, err = run_command(capsys, images / "red" / "0.png", *more)
        assert "No --model" not in out
        (line,) = err.splitlines()
        assert line.startswith("No --model: EfficientNet-Lite0 answers")
        assert "--model outputs/NAME" in line
    assert run_command(capsys, images / "red" / "0.png", "--model", model)[2] == ""


def test_nothing_readable_is_a_failure(capsys: pytest.CaptureFixture[str], model: Path, images: Path) -> None:
    assert run_command(capsys, images / "broken.png", "--model", model)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x.png", "--model", "/no/such/folder"], 1, "'/no/such/folder' is not a folder"),
        (["--top_k", "0", "x.png"], 2, "--top_k must be at least 1"),
        (["--batch_size", "0", "x.png"], 2, "--batch_size must be at least 1"),
        (["x.png", "--fromat", "csv"], 2, "did you mean --format?"),
        ([], 2, "IMAGE_OR_FOLDER"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str) -> None:
    found, out, err = run_command(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_folder_is_listed_as_a_data_set_is(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(images, folder)
    first = len(find_images([folder]))
    (folder / "red" / "@eaDir").mkdir()
    shutil.copy(next((folder / "red").glob("*.png")), folder / "red" / "@eaDir" / "x.png")
    Image.new("RGB", (9, 9)).save(folder / "red" / "y.jfif", "JPEG")
    (folder / "red" / "z.heic").write_bytes(b"x")
    said: list[str] = []
    assert len(find_images([folder], said.append)) == first + 1
    assert "1 .heic" in said[0]


def test_images_of_several_shapes_are_classified(pretrained: Callable[..., Path], tmp_path: Path) -> None:
    folder = pretrained("resnet")
    ViTImageProcessor(do_resize=False).save_pretrained(folder)
    sources = [Image.new("RGB", (40, 40 + step), (9, 99, 199)) for step in (0, 5, 0)]
    rows = list(classify(load_classifier(folder), sources))
    assert [bool(row.label) for row in rows] == [True] * 3
    assert rows[0].probability == pytest.approx(rows[2].probability, abs=1e-6)


def model_of(folder: Path, labels: tuple[str, ...], kind: str | None, **more: object) -> Path:
    """A checkpoint as another program writes it: hfft's own keys are not in its configuration."""
    make_model(folder, labels)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": kind} | more))
    return folder


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (LABELS, "multi_label_classification"),
        (("x",), "multi_label_classification"),
        (LABELS, "regression"),
        (("x",), "regression"),
        (LABELS, "single_label_classification"),
        (LABELS, None),
    ],
)
def test_a_stock_checkpoint_is_read_by_its_problem_type(
    labels: tuple[str, ...], kind: str | None, tmp_path: Path
) -> None:
    """Softmax would call every image 1.000 of a single output, and make labels exclude each other that do not."""
    folder = model_of(tmp_path / "model", labels, kind)
    (image,) = list(make_images(tmp_path / "images", ("red",), count=1).rglob("*.png"))
    (row,) = classify(load_classifier(folder), [image], top_k=3)
    told = NUMBERS if kind == "regression" else {}
    stock = {each["label"]: each["score"] for each in pipeline("image-classification", str(folder))(str(image), **told)}
    found = row.values or {score.label: score.probability for score in row.top}
    assert found == pytest.approx(stock, abs=1e-5)
    assert bool(row.values) is (kind == "regression")
    multi = kind == "multi_label_classification"
    assert set(row.labels or ()) == ({label for label, share in stock.items() if share >= 0.5} if multi else set())
    assert (row.labels is not None) is multi


def test_a_single_output_that_says_not_what_it_is_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_of(tmp_path / "model", ("x",), None)
    (image,) = list(make_images(tmp_path / "images", ("red",), count=1).rglob("*.png"))
    assert main(["predict", str(image), "--model", str(folder)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "single output" in error
    assert "problem_type" in error


def test_several_labels_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    folder = model_of(tmp_path / "model", LABELS, "multi_label_classification", decision_thresholds=[0.0, 0.0, 1.1])
    code, out, _ = run_command(capsys, images, "--model", folder, "--format", "csv", "--top_k", 2)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert list(rows[0]) == ["file", "labels", "label", "probability", "label_2", "probability_2", "error"]
    assert all(json.loads(row["labels"]) == list(LABELS[:2]) for row in rows if not row["error"])
    assert [row["labels"] for row in rows if row["error"]] == [""]
    _, out, _ = run_command(capsys, images, "--model", folder, "--format", "jsonl")
    found = [json.loads(line) for line in out.splitlines()]
    assert all(row["labels"] == list(LABELS[:2]) and "values" not in row for row in found if not row["error"])
    _, out, _ = run_command(capsys, images / "red" / "0.png", "--model", folder)
    assert f"{LABELS[0]}, {LABELS[1]}  (" in out.splitlines()[1]
    assert run_command(capsys, images, "--model", folder, "--coverage", "0.9")[0] == 2


def test_numbers_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    folder = model_of(tmp_path / "model", ("age", "height"), "regression")
    code, out, _ = run_command(capsys, images, "--model", folder, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert list(rows[0]) == ["file", "age", "height", "error"]
    _, out, _ = run_command(capsys, images, "--model", folder, "--format", "jsonl")
    found = [json.loads(line) for line in out.splitlines()]
    assert all(set(row) == {"file", "values", "error"} for row in found if not row["error"])
    for row, line in zip(rows, found, strict=True):
        if not row["error"]:
            assert float(row["age"]) == pytest.approx(line["values"]["age"], rel=1e-4)
    _, out, _ = run_command(capsys, images / "red" / "0.png", "--model", folder)
    header, line = out.splitlines()
    assert header.endswith("values")
    assert "age " in line
    assert "height " in line
