"""A tree of labels from nested folders to a card: it is trained as single labels are, and answers with nodes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import make_model
from huggingface_hub import ModelCard
from killed import KillAt, Killed
from PIL import Image
from runs import equal, losses, record, run, weights
from transformers import pipeline

import hfft
from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.cli.train import finetune_settings
from hfft.data.load import load_image_sets
from hfft.errors import DataError
from hfft.jobs.finetune import finetune
from hfft.space.service import said

CLASSES = ("cold/blue", "warm/green", "warm/red/dark", "warm/red/light")
_PIXELS = {
    "cold/blue": (0, 0, 150),
    "warm/green": (0, 150, 0),
    "warm/red/dark": (110, 0, 0),
    "warm/red/light": (165, 60, 60),
}
METRICS = {"accuracy_level_1", "accuracy_level_2", "accuracy_level_3", "tree_distance", "node_depth"}


def make_nested(folder: Path, count: int = 7) -> Path:
    """Write noisy images of a colour into folders within folders."""
    random = np.random.default_rng(0)
    for label, colour in _PIXELS.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 90, (40, 40, 3), np.uint8) + np.array(colour, np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, make_nested(folder / "images")
        self.model = make_model(folder / "model")

    def words(self, name: str, *flags: Any) -> list[str]:
        data = ("--train_dir", self.images, "--validation_dir", self.images, "--label_tree", "true")
        small: tuple[Any, ...] = ("--num_train_epochs", 3, "--per_device_train_batch_size", 7, "--learning_rate", 1e-2)
        small += ("--cache_dir", self.folder / "cache", "--logging_strategy", "steps", "--logging_steps", 1)
        given = ("--model_name_or_path", self.model, "--output_dir", self.folder / name, *data, *small, *flags)
        return [str(word) for word in given]

    def run(self, name: str, *flags: Any) -> Path:
        assert run(*self.words(name, *flags)) == 0
        return self.folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def finished(world: World) -> Path:
    return world.run("run", "--tree_threshold", 0.6)


def test_metrics_are_in_record_and_card(finished: Path) -> None:
    data = record(finished)
    assert (data["task"], data["data"]["labels"], data["thresholds"]) == ("label_tree", list(CLASSES), [0.6])
    values = data["metrics"]["validation"]["values"]
    assert values.keys() >= {"accuracy", "ece", *METRICS}
    text = ModelCard.load(finished / "README.md").text
    assert "Accuracy level 1" in text
    assert "in a tree of 3 levels" in text
    assert "sum up to 0.6 or more" in text


def test_it_is_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("said", "--policy", "head", "--num_train_epochs", 1, "--baselines", "none")
    said_of = capsys.readouterr().out
    assert "Read as label_tree: 4 classes at or below these, at most 3 levels deep" in said_of
    assert "Accuracy by level of the tree, from the root: " in said_of
    assert "edges. Nodes of probability 0.8 or more lie " in said_of


def test_cached_and_uncached_are_equal(world: World) -> None:
    flags = ("--baselines", "none", "--num_train_epochs", 2)
    first, second = (world.run(f"cache-{mode}", "--cache", mode, *flags) for mode in ("disk", "off"))
    assert losses(first) == losses(second)
    assert equal(weights(first), weights(second))


def test_augmented_at_the_boundary_cached_and_uncached_are_equal(world: World) -> None:
    flags = ("--baselines", "none", "--num_train_epochs", 2, "--frofa", "brightness", "--mixup", 0.4, "--cutmix", 1.0)
    first, second = (world.run(f"augmented-{mode}", "--cache", mode, *flags) for mode in ("disk", "off"))
    assert losses(first) == losses(second)
    assert equal(weights(first), weights(second))


def test_weights_are_those_of_single_labels(world: World, tmp_path: Path) -> None:
    """The tree decides what is answered, not what is learned."""
    flat = tmp_path / "flat"
    for label in CLASSES:
        shutil.copytree(world.images / label, flat / label.replace("/", "-"))
    flags = ("--baselines", "none", "--num_train_epochs", 2)
    tree = world.run("tree", *flags)
    single = world.run("single", *flags, "--label_tree", "false", "--train_dir", flat, "--validation_dir", flat)
    assert equal(weights(tree), weights(single))


def test_interrupted_and_resumed_is_the_same_to_the_bit(world: World) -> None:
    flags = ("--baselines", "none", "--num_train_epochs", 2, "--save_strategy", "steps", "--save_steps", 1)
    whole = world.run("whole", *flags)
    quick = ("--disable_tqdm", "true", "--figures", "false", "--calibration_folds", "0")
    words = world.words("resumed", *flags, *quick)
    with pytest.raises(Killed):
        finetune(finetune_settings(words), say=lambda line: None, callbacks=(KillAt(3),))
    assert main(["finetune", *words, "--resume_from_checkpoint", "true"]) == 0
    assert equal(weights(world.folder / "resumed"), weights(whole))


def test_evaluate(world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--model", str(finished), "--validation_dir", str(world.images)]
    assert main([*words, "--output_dir", str(tmp_path / "test")]) == 0
    assert "tree_distance" in capsys.readouterr().out
    found = json.loads((tmp_path / "test" / "evaluation.json").read_text())["metrics"]["values"]
    told = record(finished)["metrics"]["validation"]["values"]
    assert {name: found[name] for name in METRICS} == pytest.approx({name: told[name] for name in METRICS})
    with (tmp_path / "test" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["node"] == "" or any(name.startswith(row["node"]) for name in CLASSES) for row in rows)
    assert len(rows) == 28


def test_predict_shows_the_node(world: World, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(world.images / "cold" / "blue" / "0.png")
    assert main(["predict", image, "--model", str(finished), "--format", "jsonl"]) == 0
    told = json.loads(capsys.readouterr().out)
    (found,) = hfft.classify(hfft.load_classifier(finished), [image])
    assert found.node is not None
    assert told["node"] == {"label": found.node.label, "probability": pytest.approx(found.node.probability)}
    assert main(["predict", image, "--model", str(finished), "--format", "csv"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert row["node"] == found.node.label
    assert (found.node.label or found.label) in said(found)


def test_stock_transformers_gives_the_labels(world: World, finished: Path) -> None:
    image = str(world.images / "cold" / "blue" / "0.png")
    stock = pipeline("image-classification", model=str(finished))(image)
    (found,) = hfft.classify(hfft.load_classifier(finished), [image])
    assert stock[0]["label"] == found.label


def test_a_delta_merges_to_the_same_model(finished: Path, tmp_path: Path) -> None:
    assert main(["merge", str(finished), "--output_dir", str(tmp_path / "merged")]) == 0
    assert equal(weights(tmp_path / "merged"), weights(finished))
    assert hfft.load_classifier(tmp_path / "merged").task == hfft.load_classifier(finished).task


def test_tables_and_archives_hold_trees_as_well(world: World, tmp_path: Path) -> None:
    table = world.images / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows(
            [f"{label}/{number}.png", label.replace("/", " / ")] for label in CLASSES for number in range(7)
        )
    try:
        of_table = load_image_sets(DataArguments(dataset_name=str(table), label_tree=True), 0)
    finally:
        table.unlink()
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", world.images)
    of_archive = load_image_sets(DataArguments(dataset_name=archive, label_tree=True), 0)
    of_folder = load_image_sets(DataArguments(dataset_name=str(world.images), label_tree=True), 0)
    for sets in (of_table, of_archive, of_folder):
        assert (sets.task.name, sets.labels) == ("label_tree", CLASSES)
        assert sets.train.fingerprint() == of_folder.train.fingerprint()


def test_folders_that_are_no_tree_are_refused(world: World) -> None:
    with pytest.raises(DataError, match="leave out --label_tree"):
        load_image_sets(DataArguments(train_dir=str(world.images / "warm" / "red"), label_tree=True), 0)


def test_check_names_faults_by_their_path(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class is counted and compared as the whole path that it is, and a parent of others is not one of few images."""
    images = make_nested(tmp_path / "images", count=10)
    shutil.copy(images / "cold" / "blue" / "0.png", images / "warm" / "red" / "dark" / "again.png")
    (images / "warm" / "red" / "light" / "9.png").unlink()
    assert main(["check", str(images), "--label_tree", "true", "--json"]) == 1
    found = {each["kind"]: each for each in json.loads(capsys.readouterr().out)["result"]["findings"]}
    assert {"train: cold/blue/0.png", "train: warm/red/dark/again.png"} <= set(found["conflict"]["files"])
    assert "warm/red/light" in found["few_images"]["what"]
    assert "one_class" not in found


@pytest.mark.parametrize("command", ["sweep", "advise", "auto"])
def test_what_compares_policies_compares_trees(
    command: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "sweep": ("sweep", "--sweep", "policy=head,last_block", "--figures", "false"),
        "advise": ("advise", "--policies", "head,last_block", "--folds", "2"),
        "auto": ("finetune", "--policy", "auto", "--figures", "false", "--calibration_folds", "0"),
    }[command]
    words = world.words("compared", "--num_train_epochs", 1, "--disable_tqdm", "true")
    words[words.index(str(world.folder / "compared"))] = str(tmp_path / "compared")
    assert main([*more[:1], *words, *more[1:]]) == 0
    printed = capsys.readouterr().out
    assert {"sweep": "policy=last_block", "advise": "Recommended: ", "auto": "Policy auto: "}[command] in printed
    if command == "auto":
        assert record(tmp_path / "compared")["task"] == "label_tree"


@pytest.mark.slow
def test_onnx_gives_the_same_answers(world: World, finished: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert main(["export", str(finished), "--output_dir", str(tmp_path), "--images", str(world.images)]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    classifier = hfft.load_classifier(finished, device="cpu")
    image = Image.open(world.images / "warm" / "green" / "1.png").convert("RGB")
    (scores,) = session.run(["probabilities"], {"images": np.asarray(image)[None]})
    expected = classifier.probabilities(
        classifier.logits({name: tensor[None] for name, tensor in classifier.pixels(image).items()})
    )
    np.testing.assert_allclose(scores, expected, rtol=2e-2, atol=5e-3)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["labels"]) == list(CLASSES)
    assert json.loads(told["thresholds"]) == [0.6], "or nobody could name the node"


def test_the_space_names_the_node(world: World, finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra 'space' is not installed")
    from hfft.space.options import SpaceArguments
    from hfft.space.service import Space
    from hfft.space.trainings.sessions import Session
    from hfft.space.views.answers import in_words

    space = Space(SpaceArguments(model=str(finished)), tmp_path, device="cpu")
    image = str(world.images / "cold" / "blue" / "0.png")
    _, found, values, about = space.classify(Session(), str(finished), image)
    (expected,) = hfft.classify(hfft.load_classifier(finished, device="cpu"), [image])
    assert (found.node, about) == (expected.node, expected.label)
    assert values is not None
    assert expected.node is not None
    assert (expected.node.label or "No node") in in_words(found, ())
    assert {label for _, label in space.examples(Session(), str(finished))} == set(CLASSES)
    assert space.run(Session(), str(finished)) is not None
