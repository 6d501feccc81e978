"""From a backbone without a classifier to a finished model: trained, saved, loaded here and elsewhere, exported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from finished import make_images
from PIL import Image
from runs import equal, weights
from safetensors.torch import load_file
from small_models import small_encoder
from transformers import AutoModel, BertConfig, BertModel, ViTImageProcessorPil

import hfft
from hfft.arguments import ModelArguments
from hfft.cli import main
from hfft.errors import ModelError
from hfft.explain.pipeline import activation_map, pipeline_trace
from hfft.hub.push import Target, collect
from hfft.models.checkpoint import merge
from hfft.models.load import load_model
from hfft.models.pretrained import in_timm, load_pretrained
from hfft.output_folder import CODE

TYPES = (
    *("aimv2_vision_model", "dinov3_convnext", "dinov3_vit", "mlcd_vision_model", "pixio", "siglip_vision_model"),
    *("tipsv2_vision_model", "vit_mae", "vitdet"),
)


def _backbone(folder: Path, model_type: str) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(small_encoder(model_type)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _finetune(base: Path, images: Path, output: Path, **options: Any) -> Path:
    defaults: dict[str, Any] = {
        "num_train_epochs": 2.0,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "report_to": "none",
        "figures": False,
        "disable_tqdm": True,
        "baselines": "none",
    }
    sets = {"train_dir": str(images), "validation_dir": str(images), "output_dir": str(output)}
    hfft.finetune(model_name_or_path=str(base), **sets, **(defaults | options), say=lambda line: None)
    return output


@pytest.mark.parametrize(
    "model_type", [pytest.param(each, marks=() if each == "dinov3_vit" else pytest.mark.slow) for each in TYPES]
)
def test_a_backbone_is_trained_saved_loaded_merged_and_exported(tmp_path: Path, model_type: str) -> None:
    base, images = _backbone(tmp_path / "base", model_type), make_images(tmp_path / "images")
    cached = _finetune(base, images, tmp_path / "cached")
    record = json.loads((cached / "hfft.json").read_text())
    assert record["cache"]["mode"] != "off", record["cache"]["reason_off"]
    assert record["frozen"]["sha256_before"] == record["frozen"]["sha256_after"]
    assert equal(weights(cached), weights(_finetune(base, images, tmp_path / "uncached", cache="off")))

    model, _ = hfft.load(cached)
    merged = merge(_delta_alone(cached, tmp_path / "delta"), tmp_path / "merged")
    again, _ = hfft.load(merged)
    assert equal(dict(model.state_dict()), dict(again.state_dict()))
    assert (merged / CODE).exists() == (cached / CODE).exists() == (model.config.model_type == "backbone_classifier")

    assert (CODE in collect(cached, Target("me/photos"))) == (cached / CODE).exists()

    picture = str(next((images / "red").iterdir()))
    classifier = hfft.load_classifier(cached)
    prediction = next(hfft.classify(classifier, [picture]))
    seen = Image.open(picture)
    assert pipeline_trace(classifier, seen).scores[0].label == prediction.label
    assert activation_map(classifier, seen) is not None
    assert main(["export", str(cached), "--images", str(images)]) == 0


def _delta_alone(run: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("delta.safetensors", "config.json", "preprocessor_config.json", "hfft.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


STRANGER = """
import sys
sys.modules["hfft"] = None  # importing it fails
import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
folder, picture = sys.argv[1:]
try:
    AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False)
except ValueError:
    pass
else:
    raise AssertionError("loaded without trust")
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(folder)
from PIL import Image
with torch.no_grad():
    logits = model(**processor(Image.open(picture), return_tensors="pt")).logits
save_file({"logits": logits}, folder + "/stranger.safetensors")
print(pipeline("image-classification", model=folder, trust_remote_code=True)(picture)[0]["label"])
model.save_pretrained(folder + "/again")
"""


@pytest.mark.processes
def test_others_load_it_with_the_code_beside_it_and_no_hfft(tmp_path: Path) -> None:
    base, images = _backbone(tmp_path / "base", "dinov3_vit"), make_images(tmp_path / "images")
    run = _finetune(base, images, tmp_path / "run")
    picture = str(images / "red" / "0.png")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(run), picture], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    classifier = hfft.load_classifier(run)
    prediction = next(hfft.classify(classifier, [picture]))
    assert done.stdout.split()[-1] == prediction.label
    mine = classifier.logits({"pixel_values": classifier.pixels(Image.open(picture))["pixel_values"][None]})
    assert torch.allclose(load_file(run / "stranger.safetensors")["logits"], mine, atol=1e-6)
    assert (run / "again" / CODE).read_bytes() == (run / CODE).read_bytes()
    card = (run / "README.md").read_text()
    assert card.count("trust_remote_code=True") >= 3
    assert CODE in card


def test_plan_says_what_becomes_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model_name_or_path", str(_backbone(tmp_path / "dino", "dinov3_vit"))]) == 0
    printed = capsys.readouterr().out
    assert f"the checkpoint brings {CODE} along, and is loaded with trust_remote_code=True" in printed
    assert "the class token and the mean over the patches" in printed
    assert main(["plan", "--model_name_or_path", str(_backbone(tmp_path / "mae", "vit_mae"))]) == 0
    assert "it becomes a vit model" in capsys.readouterr().out


def test_a_finished_one_is_fine_tuned_again_for_other_classes(tmp_path: Path) -> None:
    base = _backbone(tmp_path / "base", "dinov3_vit")
    first = _finetune(base, make_images(tmp_path / "images"), tmp_path / "first", num_train_epochs=1.0)
    model, _, loaded = load_model(ModelArguments(model_name_or_path=str(first)), ["a", "b"])
    assert loaded.fresh == ("classifier.bias", "classifier.weight")
    trained = weights(first)
    assert torch.equal(model.state_dict()["norm.weight"], trained["norm.weight"])


def test_the_vision_tower_of_a_model_of_images_and_text_is_taken(tmp_path: Path) -> None:
    vision = small_encoder("tipsv2_vision_model").to_dict()
    from transformers import Tipsv2Config, Tipsv2Model

    text = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    torch.manual_seed(0)
    whole = Tipsv2Model(Tipsv2Config(vision_config=vision, text_config=text | {"num_attention_heads": 2}))
    whole.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model, _, base = load_model(ModelArguments(model_name_or_path=str(tmp_path)), ["a", "b"])
    assert base.fresh == ("classifier.bias", "classifier.weight", "norm.bias", "norm.weight")
    expected = whole.vision_model.state_dict()
    assert equal(dict(model.get_submodule("backbone").state_dict()), dict(expected))


def test_what_is_not_a_vision_model_is_refused(tmp_path: Path) -> None:
    BertModel(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a 'bert' model, which transformers has no image classifier for"):
        load_model(ModelArguments(model_name_or_path=str(tmp_path)), ["a", "b"])


def test_a_backbone_that_was_not_finetuned_does_not_classify(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="without a classifier; give it one with hfft finetune"):
        hfft.load(_backbone(tmp_path / "base", "dinov3_vit"))


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("facebook/dinov3-vits16-pretrain-lvd1689m", "vit_small_patch16_dinov3.lvd1689m"),
        ("facebook/dinov3-vits16plus-pretrain-lvd1689m", "vit_small_plus_patch16_dinov3.lvd1689m"),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "vit_base_patch16_dinov3.lvd1689m"),
        ("facebook/dinov3-vitl16-pretrain-sat493m", "vit_large_patch16_dinov3.sat493m"),
        ("facebook/dinov3-vith16plus-pretrain-lvd1689m", "vit_huge_plus_patch16_dinov3.lvd1689m"),
        ("facebook/dinov3-vit7b16-pretrain-lvd1689m", "vit_7b_patch16_dinov3.lvd1689m"),
        ("facebook/dinov3-convnext-tiny-pretrain-lvd1689m", "convnext_tiny.dinov3_lvd1689m"),
        ("facebook/vit-mae-huge", "vit_huge_patch14_224.mae"),
        ("apple/aimv2-1B-patch14-448", "aimv2_1b_patch14_448.apple_pt"),
    ],
)
def test_timm_names_are_timms(repository: str, name: str) -> None:
    assert in_timm(repository) == f"timm/{name}"
    assert name in timm.list_pretrained()


def test_a_gated_model_is_refused_with_timms_name() -> None:
    class Gated:
        @staticmethod
        def from_pretrained(*args: Any, **options: Any) -> None:
            raise OSError("You are trying to access a gated repo.")

    name = "facebook/dinov3-vitb16-pretrain-lvd1689m"
    with pytest.raises(ModelError, match=r"gated repo.*timm holds the same weights as timm/vit_base_patch16_dinov3"):
        load_pretrained(Gated, ModelArguments(model_name_or_path=name))
