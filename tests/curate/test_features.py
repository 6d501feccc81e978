"""Features are what the model's modules give, and what the cache holds is not computed again."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished import make_images
from safetensors.numpy import load_file
from small_models import small_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessorPil

from hfft.arguments import DataArguments, FeatureArguments
from hfft.cli import main
from hfft.curate.embed import Embedding, write_embedding
from hfft.curate.encoder import load_base, load_encoder, run_record
from hfft.curate.features import read_features
from hfft.curate.gather import gather, refuse_existing
from hfft.data.images import open_image
from hfft.errors import OutputError
from hfft.inference.classifier import classify, load_classifier
from hfft.report.plots import MapPlot, feature_map_figure

from .conftest import Finished


def pixels(folder: Path, model: Path) -> dict[str, torch.Tensor]:
    """Model inputs of all images of class folders, by stock transformers."""
    files = sorted(folder.glob("*/*.png"))
    processor = AutoImageProcessor.from_pretrained(model)
    return dict(processor([open_image(file, file.name) for file in files], return_tensors="pt"))


def test_a_runs_features_are_what_its_head_reads_and_nothing_is_computed_again(finished: Finished) -> None:
    said: list[str] = []
    encoder = load_encoder(FeatureArguments(model=str(finished.output)))
    found = read_features(encoder, gather(DataArguments(), str(finished.images)).sets, [None], said.append)["train"]
    assert "18 of 18 rows were there already" in "".join(said)
    model = AutoModelForImageClassification.from_pretrained(finished.output).eval()
    with torch.no_grad():
        inputs = pixels(finished.images, finished.output)
        expected = model.vit(**inputs).last_hidden_state[:, 0]
        logits = model(**inputs).logits
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-5)
    assert encoder.labels == ("blue", "green", "red")


def test_the_base_of_a_run_reads_the_runs_rows(finished: Finished) -> None:
    said: list[str] = []
    record = run_record(str(finished.output))
    assert record is not None
    encoder = load_base(record)
    found = read_features(encoder, gather(DataArguments(), str(finished.output)).sets, [None], said.append)["train"]
    assert "18 of 18 rows were there already" in "".join(said)
    model = AutoModelForImageClassification.from_pretrained(finished.base).eval()
    with torch.no_grad():
        expected = model.vit(**pixels(finished.images, finished.base)).last_hidden_state[:, 0]
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "resnet", "swin", "timm-convnext"])
def test_every_part_can_be_read(
    kind: str, pretrained: Callable[[str], Path], image_folder: Callable[..., Path]
) -> None:
    said: list[str] = []
    folder, model = image_folder(per_class=2), pretrained(kind)
    encoder = load_encoder(FeatureArguments(model=str(model)))
    sets = gather(DataArguments(), str(folder)).sets
    parts = [label for label, names in encoder.anatomy.parts() if names and label != "head"]
    for part in parts:
        cached = read_features(encoder, sets, [part], said.append)["train"].values
        encoder.cache.cache = "off"
        plain = read_features(encoder, sets, [part], said.append)["train"].values
        encoder.cache.cache = "auto"
        assert len(cached) == 6
        assert np.isfinite(cached).all()
        np.testing.assert_allclose(cached, plain, atol=1e-5)
    assert any("stem lies before what is cached" in line for line in said)
    assert any(line.startswith("Activation cache: ") and "off" not in line for line in said)


def test_a_part_is_averaged_over_the_image(finished: Finished) -> None:
    encoder = load_encoder(FeatureArguments(model=str(finished.base)))
    found = read_features(encoder, gather(DataArguments(), str(finished.images)).sets, ["block 2"], lambda line: None)
    model = AutoModelForImageClassification.from_pretrained(finished.base).eval()
    with torch.no_grad():
        inputs = pixels(finished.images, finished.base)
        states = model(**inputs, output_hidden_states=True).hidden_states
    expected = states[2][:, 1:].mean(1)  # the patches, without the class token
    np.testing.assert_allclose(found["train"].values, expected.numpy(), atol=1e-5)


def test_a_stem_gives_its_patches_and_no_table_of_positions(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    model = small_model("beit")[0]
    model.save_pretrained(tmp_path / "beit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "beit")
    encoder = load_encoder(FeatureArguments(model=str(tmp_path / "beit")))
    folder = image_folder(per_class=2)
    found = read_features(encoder, gather(DataArguments(), str(folder)).sets, ["stem"], lambda line: None)["train"]
    with torch.no_grad():
        states = model(**pixels(folder, tmp_path / "beit"), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(found.values, states[0][:, 1:].mean(1).numpy(), atol=1e-5)


def test_embed_writes_safetensors_with_names(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "f.safetensors"
    argv = ["embed", str(finished.images), "--model", str(finished.output), "--output", str(target), "--json"]
    assert main(argv) == 0
    facts = json.loads(capsys.readouterr().out)["result"]
    assert (facts["images"], facts["part"]) == (18, "head input")
    tensors = load_file(target)
    assert tensors["features"].shape == (18, facts["features"])
    assert tensors["labels"].tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_embed_writes_parquet_of_images_without_labels(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    target, folder = tmp_path / "f.parquet", make_images(tmp_path / "more", ("red",)) / "red"
    argv = ["embed", str(folder), "--model", str(finished.base), "--block", "block_1", "--output", str(target)]
    assert main(argv) == 0
    assert "6 images" in capsys.readouterr().out
    rows = pq.read_table(target).to_pylist()
    assert [Path(row["image"]).name for row in rows] == [f"{number}.png" for number in range(6)]
    assert {(row["label"], row["split"], len(row["features"])) for row in rows} == {(None, "unlabelled", 16)}
    capsys.readouterr()
    assert main(argv) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--output", "f.csv"], 2, "must end in .parquet or .safetensors"),
        (["--output", "f.parquet", "--block", "block 9"], 2, "it has stem, block 1, block 2, block 3, neck"),
        (["--output", "no/such/f.parquet"], 1, "there is no folder"),
        ([], 2, "--output"),
    ],
)
def test_wrong_options(
    flags: list[str], code: int, message: str, finished: Finished, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["embed", str(finished.images), "--model", str(finished.base), *flags]) == code
    assert message in capsys.readouterr().err


def test_a_folder_that_refuses_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"cannot write f\.parquet: Permission denied; change its permissions"):
        refuse_existing("f.parquet")


@pytest.mark.parametrize("ending", ["parquet", "safetensors"])
def test_features_that_cannot_be_written_are_one_line(tmp_path: Path, ending: str) -> None:
    found = Embedding("model", "head input", np.zeros((1, 2), np.float32), ("0.png",), ("red",), ("train",))
    with pytest.raises(OutputError, match=f"cannot write .*f.{ending}: No such file or directory"):
        write_embedding(found, tmp_path / "gone" / f"f.{ending}")


def test_a_bad_image_is_named_or_left_out(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_images(tmp_path / "some", count=2)
    (folder / "red" / "bad.png").write_bytes(b"no image")
    argv = ["embed", str(folder), "--model", str(finished.base), "--output", str(tmp_path / "f.parquet")]
    assert main(argv) == 1
    assert "red/bad.png" in capsys.readouterr().err
    assert main([*argv, "--on_bad_image", "skip"]) == 0
    assert "Skipped 1 image that cannot be read: red/bad.png" in capsys.readouterr().err


def test_a_sample_keeps_the_shares_of_the_classes(finished: Finished) -> None:
    """What is asked for is what is looked at, by every command that gathers images."""
    asked = DataArguments(train_dir=str(finished.images), max_train_samples=6)
    found = gather(asked, None)
    assert sorted(str(name) for name in found.splits["train"].names) == ["blue", "blue", "green", "green", "red", "red"]
    assert found.counts == {"train": 6}
    assert gather(asked, None).sets["train"].files == found.sets["train"].files


def test_embed_draws_a_map_and_counts_what_the_run_has_wrong(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    images = make_images(tmp_path / "photos", ("blue", "green", "red"), count=2)
    (images / "red").rename(images / "else")  # a class that the run does not know is no mistake
    (images / "blue" / "0.png").rename(images / "green" / "9.png")
    drawn: list[MapPlot] = []

    def draw(plot: MapPlot, labels: Sequence[str], path: Path) -> None:
        drawn.append(plot)
        feature_map_figure(plot, labels, path)

    monkeypatch.setattr("hfft.curate.embed.feature_map_figure", draw)
    argv = ["embed", str(images), "--model", str(finished.output), "--map", str(tmp_path / "map.png")]
    assert main([*argv, "--output", str(tmp_path / "f.parquet")]) == 0
    (plot,) = drawn
    files = sorted(images.glob("*/*.png"))
    said = [row.label for row in classify(load_classifier(finished.output), files)]
    expected = [file.parent.name not in ("else", label) for file, label in zip(files, said, strict=True)]
    assert plot.wrong.tolist() == expected
    assert any(expected)
    assert plot.panels[0].points.shape == (6, 2)
    assert Image.open(tmp_path / "map.png").width > 500


def test_a_map_asks_for_what_is_not_installed(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    argv = ["embed", str(finished.images), "--model", str(finished.output), "--output", str(tmp_path / "f.parquet")]
    assert main([*argv, "--map", str(tmp_path / "map.png"), "--projection", "umap"]) == 1
    assert "pip install umap-learn" in capsys.readouterr().err
    assert not (tmp_path / "f.parquet").exists()
