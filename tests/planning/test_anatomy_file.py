"""Anatomies by hand: what a file may say, what is refused and how, and what a suggestion is worth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import SMALL, small_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfft.errors import PluginError
from hfft.jobs.check_plugin import check_model
from hfft.planning.anatomy_file import dump_anatomy, load_anatomy, suggest_anatomy
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import TokenLayout

RESNET = """\
stem: resnet.embedder
blocks: resnet.encoder.stages.*
head: classifier
"""

# Where the suggestion differs from the plugin's blocks, and why that is as good as a recorded forward can tell.
SUGGESTED_OTHERWISE = {
    "poolformer": "the list of embeddings holds more parameters than the list of layers in so small a model",
    "pvt": "the first embedding runs before the first layers, as a stem does",
}


@pytest.fixture
def resnet() -> PreTrainedModel:
    return small_model("resnet")[0]


def write(folder: Path, text: str) -> Path:
    path = folder / "anatomy.yaml"
    path.write_text(text)
    return path


def test_patterns_give_what_the_plugin_gives(tmp_path: Path, resnet: PreTrainedModel) -> None:
    assert load_anatomy(write(tmp_path, RESNET), resnet) == find_anatomy(resnet)


def test_blocks_come_in_natural_order(tmp_path: Path) -> None:
    model, _ = small_model("vit", changes={"num_hidden_layers": 11})
    text = "stem: [vit.embeddings]\nblocks: vit.layers.*\nneck: vit.layernorm\nhead: classifier"
    anatomy = load_anatomy(write(tmp_path, text), model)
    assert anatomy.blocks == tuple((f"vit.layers.{index}",) for index in range(11))


def test_patterns_of_one_block_advance_together(tmp_path: Path) -> None:
    model, _ = small_model("pvt")
    text = """
blocks:
- [pvt.encoder.patch_embeddings.*, pvt.encoder.block.*]
neck: pvt.encoder.layer_norm
head: classifier
tokens: {grid: [2, 2], prefix: 1}
"""
    assert load_anatomy(write(tmp_path, text), model) == find_anatomy(model)


def test_tokens_have_no_prefix_unless_the_file_says_so(tmp_path: Path, resnet: PreTrainedModel) -> None:
    anatomy = load_anatomy(write(tmp_path, RESNET + "tokens: {grid: [7, 5]}"), resnet)
    assert anatomy.tokens == TokenLayout((7, 5), 0)


@pytest.mark.parametrize("model_type", SMALL)
def test_what_is_dumped_reads_back(tmp_path: Path, model_type: str) -> None:
    model, _ = small_model(model_type)
    anatomy = find_anatomy(model)
    assert load_anatomy(write(tmp_path, dump_anatomy(anatomy)), model) == anatomy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stem: [a, b", r"anatomy.yaml is not YAML: .* line 1"),
        ("", r"anatomy.yaml holds no keys; it needs blocks, head"),
        ("- a\n- b", r"anatomy.yaml holds no keys"),
        (RESNET + "body: a", r"anatomy.yaml: unknown key body; known are stem, blocks"),
        (RESNET + "1: a", r"anatomy.yaml: unknown key 1"),
        ("head: classifier", r"anatomy.yaml: blocks: missing or empty"),
        ("blocks: resnet.encoder.stages.*\nhead: []", r"anatomy.yaml: head: missing or empty"),
        (RESNET + "neck: {a: b}", r"anatomy.yaml: neck: expected a name or a list of names, found \{'a': 'b'\}"),
        (RESNET + "neck: [3]", r"anatomy.yaml: neck: expected a name, found 3"),
        (RESNET + "neck: ['']", r"anatomy.yaml: neck: expected a name, found ''"),
        (RESNET + "neck: [[a]]", r"anatomy.yaml: neck: expected a name, found \['a'\]"),
        (RESNET + "neck: resnet.pole", r"anatomy.yaml: neck: the model has nothing called 'resnet.pole'"),
        ("blocks: [[]]\nhead: classifier", r"anatomy.yaml: blocks: expected a name, found \[\]"),
        (
            "blocks: [[resnet.*, classifier.1]]\nhead: a",
            r"anatomy.yaml: blocks: patterns of one block must match equally",
        ),
        (RESNET + "tokens: 7", r"anatomy.yaml: tokens: "),
        (RESNET + "tokens: {rows: 7}", r"anatomy.yaml: tokens: "),
        (RESNET + "tokens: {grid: 7}", r"anatomy.yaml: tokens: "),
        (RESNET + "tokens: {grid: [a, b]}", r"anatomy.yaml: tokens: .*whole numbers"),
        (RESNET + "tokens: {grid: [7, 7, 7]}", r"anatomy.yaml: tokens: .*whole numbers"),
        (RESNET + "tokens: {grid: '77'}", r"anatomy.yaml: tokens: expected a grid"),
        (RESNET + "tokens: {grid: [7, 7], prefixx: 1}", r"anatomy.yaml: tokens: .*prefixx"),
        (
            RESNET + "class_token: {heads: 2, norm1: a, proj: b, norm2: c, mlp: mlp}",
            r"anatomy.yaml: class_token: expected a list of names, found 'mlp'",
        ),
        (
            RESNET + "class_token: {heads: '2', norm1: a, proj: b, norm2: c, mlp: [mlp]}",
            r"anatomy.yaml: class_token: expected a number of heads",
        ),
        (RESNET + "class_token: {heads: 2}", r"anatomy.yaml: class_token: "),
        (RESNET + "class_token: [1]", r"anatomy.yaml: class_token: "),
        ("blocks: resnet.encoder.stages.*\nhead: classifier", r"anatomy.yaml does not fit ResNet.*'resnet.embedder"),
        (
            "stem: resnet.embedder\nblocks: [resnet.encoder.stages.*, resnet.pooler]\nhead: classifier",
            r"anatomy.yaml does not fit .*no parameter lies in block 5",
        ),
        (
            "stem: resnet.embedder\nblocks: resnet.encoder.stages.*\nneck: classifier.1\nhead: classifier.0",
            r"anatomy.yaml does not fit .*no parameter lies in head",
        ),
        (RESNET + "neck: resnet.encoder", r"anatomy.yaml does not fit .* in block 1 and neck"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key(
    tmp_path: Path, resnet: PreTrainedModel, text: str, message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        load_anatomy(write(tmp_path, text), resnet)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, resnet: PreTrainedModel) -> None:
    with pytest.raises(PluginError, match=r"nowhere\.yaml cannot be read"):
        load_anatomy(tmp_path / "nowhere.yaml", resnet)


def test_a_file_that_is_not_text_is_named(tmp_path: Path, resnet: PreTrainedModel) -> None:
    path = tmp_path / "anatomy.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PluginError, match=r"anatomy\.yaml cannot be read"):
        load_anatomy(path, resnet)


@pytest.mark.parametrize("model_type", SMALL)
def test_a_suggestion_has_the_plugins_blocks(model_type: str) -> None:
    model, inputs = small_model(model_type)
    suggested = suggest_anatomy(model, inputs)
    assert (suggested.blocks == find_anatomy(model).blocks) == (model_type not in SUGGESTED_OTHERWISE)


def test_a_suggestion_passes_the_checks_and_reads_back(tmp_path: Path) -> None:
    model, inputs = small_model("deit", "DeiTForImageClassificationWithTeacher")
    suggested = suggest_anatomy(model, inputs)
    assert suggested.head == ("cls_classifier", "distillation_classifier")
    assert [result for result in check_model(model, inputs, suggested) if not result.ok] == []
    assert load_anatomy(write(tmp_path, dump_anatomy(suggested)), model) == suggested


def test_a_suggestion_joins_layers_of_one_resolution() -> None:
    model = Vgg()
    suggested = suggest_anatomy(model, {"x": torch.rand(2, 3, 16, 16)})
    assert suggested.blocks == (("features.0", "features.2"), ("features.5",))
    assert (suggested.stem, suggested.neck, suggested.head) == ((), ("classifier.0",), ("classifier.2",))


def test_no_suggestion_without_a_linear_layer() -> None:
    with pytest.raises(PluginError, match="no linear layer runs"):
        suggest_anatomy(nn.Sequential(nn.Flatten()), {"input": torch.rand(2, 3)})


def test_no_suggestion_without_a_list_of_blocks() -> None:
    with pytest.raises(PluginError, match="no list of modules runs one after another"):
        suggest_anatomy(nn.Sequential(nn.Linear(3, 2)), {"input": torch.rand(2, 3)})


class Vgg(nn.Module):
    """Blocks and their pooling in one flat sequence, and a classifier with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        first = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*first, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def test_an_unknown_key_is_named_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(b"? '\n\n'")
    with pytest.raises(PluginError, match="unknown key") as raised:
        load_anatomy(tmp_path / "odd.yaml", small_model("resnet")[0])
    assert "\n" not in str(raised.value)
