"""Model inputs: the same pixels by every way, augmentation by (seed, content, view) alone, sizes that are kept."""

import hashlib
import io
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoImageProcessor, BaseImageProcessor

from hfft.arguments import DataArguments
from hfft.arguments.augmentation import AUGMENTATIONS
from hfft.data.images import NO_IMAGE, ImageSet, UnreadableImageError, open_image
from hfft.data.load import load_image_sets
from hfft.data.preprocessing import PixelDataset, Pixels, collate, received, resize_processor
from hfft.demo import ANIMALS, embedded_model
from hfft.errors import ArgumentError, DataError


def vit(size: int = 16) -> BaseImageProcessor:
    processor: BaseImageProcessor = transformers.ViTImageProcessor(size={"height": size, "width": size})
    return processor


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def content(number: int) -> str:
    """What stands for an image's content."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def noise_set(count: int = 6) -> ImageSet:
    values = []
    for row in range(count):
        stream = io.BytesIO()
        noise(seed=row).save(stream, format="PNG")
        values.append({"bytes": stream.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"image": values}, features=features)
    return ImageSet(table, np.arange(count, dtype=np.int64) % 2, "noise")


# One image --------------------------------------------------------------------------------------------


def test_same_pixels_as_the_processor_itself() -> None:
    image = noise()
    for processor in (vit(), embedded_model(["a", "b"])[1]):
        expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(Pixels(processor)(image)["pixel_values"], expected)


def test_same_pixels_from_a_file_from_bytes_and_from_an_image_set(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    noise().save(path)
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = [{"path": str(path), "bytes": None}, {"path": None, "bytes": path.read_bytes()}]
    images = ImageSet(datasets.Dataset.from_dict({"image": rows}, features), np.zeros(2, dtype=np.int64), "two")
    pixels = Pixels(vit())
    ways = [images.image(0), images.image(1), open_image(path, "p"), open_image(io.BytesIO(path.read_bytes()), "b")]
    first, *others = [pixels(image)["pixel_values"] for image in ways]
    assert all(torch.equal(first, other) for other in others)


def test_saved_processor_gives_the_same_pixels_and_fingerprint(tmp_path: Path) -> None:
    processor = vit()
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(Pixels(loaded)(noise())["pixel_values"], Pixels(processor)(noise())["pixel_values"])
    assert Pixels(loaded).fingerprint() == Pixels(processor).fingerprint()


def test_every_tensor_of_a_processor_is_kept() -> None:
    siglip = transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=16)
    inputs = Pixels(siglip)(noise())
    assert set(inputs) == {"pixel_values", "pixel_attention_mask", "spatial_shapes"}
    assert inputs["pixel_values"].shape == (16, 48)
    assert inputs["spatial_shapes"].shape == (2,)
    clusters = np.array([[-1.0, -1, -1], [1.0, 1, 1]])
    imagegpt = transformers.ImageGPTImageProcessor(clusters=clusters, size={"height": 4, "width": 4})
    assert Pixels(imagegpt)(noise())["input_ids"].shape == (16,)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (400, 2)])
def test_odd_shapes_pass(size: tuple[int, int]) -> None:
    for augment in AUGMENTATIONS:
        assert Pixels(vit(), augment)(Image.new("RGB", size), content(0), view=0)["pixel_values"].shape == (3, 16, 16)


# Augmentation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augment", "fewest"),
    [("flip", 2), ("crop", 12), ("jitter", 12), ("randaugment", 9)],  # which may change nothing
)
def test_seed_content_and_view_alone_decide(augment: str, fewest: int) -> None:
    def bits(seed: int, row: int, view: int) -> bytes:
        image = noise(400, 300)  # so large that no two crops are the same by chance
        return Pixels(vit(), augment, seed)(image, content(row), view)["pixel_values"].numpy().tobytes()

    assert bits(1, 2, 3) == bits(1, 2, 3)
    for change in (
        [(seed, 2, 3) for seed in range(12)],
        [(1, row, 3) for row in range(12)],
        [(1, 2, v) for v in range(12)],
    ):
        assert fewest <= len({bits(*key) for key in change}) <= (2 if augment == "flip" else 12)


def test_without_a_view_nothing_is_augmented() -> None:
    plain = Pixels(vit())(noise())["pixel_values"]
    for augment in ("flip", "crop", "randaugment", "jitter"):
        assert torch.equal(Pixels(vit(), augment)(noise(), content(1))["pixel_values"], plain)
    assert torch.equal(Pixels(vit())(noise(), content(1), view=1)["pixel_values"], plain)


def test_flip_is_a_mirror_half_of_the_time() -> None:
    plain = Pixels(vit())(noise(16, 16))["pixel_values"]
    seen = [Pixels(vit(), "flip")(noise(16, 16), content(row), 0)["pixel_values"] for row in range(200)]
    flipped = sum(torch.equal(pixels, plain.flip(-1)) for pixels in seen)
    assert flipped + sum(torch.equal(pixels, plain) for pixels in seen) == 200
    assert 70 < flipped < 130


@pytest.mark.parametrize("augment", ["crop", "randaugment", "jitter"])
def test_augmentation_leaves_global_random_states_alone(augment: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1), np.random.random_sample()
    torch.manual_seed(1)
    np.random.seed(1)
    Pixels(vit(), augment)(noise(), content(0), 0)
    assert (torch.rand(1), np.random.random_sample()) == expected


def test_unknown_augmentation_is_named() -> None:
    with pytest.raises(ArgumentError, match="'mixup'"):
        Pixels(vit(), "mixup")


def test_fingerprint_follows_what_the_pixels_depend_on() -> None:
    other_mean = transformers.ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.5])
    prints = [
        Pixels(vit()).fingerprint(),
        Pixels(vit(20)).fingerprint(),
        Pixels(other_mean).fingerprint(),
        Pixels(vit(), "flip", 0).fingerprint(),
        Pixels(vit(), "flip", 1).fingerprint(),
        Pixels(vit(), "crop", 0).fingerprint(),
    ]
    assert len(set(prints)) == 6
    assert Pixels(vit(), "none", 5).fingerprint() == prints[0]
    assert Pixels(vit(), "flip", 5).processing() == Pixels(vit()).processing() != Pixels(vit(20)).processing()
    content = "0" * 64
    ways = (("crop", 0), ("crop", 1), ("jitter", 0))
    views = [Pixels(vit(), *how).view_names(view, [content])[0] for how in ways for view in (0, 1)]
    assert len(set(views)) == 6
    assert Pixels(vit(), "none", 5).view_names(1, [content]) == [""]


def test_a_view_that_is_flipped_or_not_is_named_by_that_alone() -> None:
    pixels, image = Pixels(vit(), "flip"), Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20)
    named: dict[str, list[torch.Tensor]] = {}
    for view in range(12):
        (name,) = pixels.view_names(view, ["ab" * 32])
        named.setdefault(name, []).append(pixels(image, "ab" * 32, view)["pixel_values"])
    assert sorted(named) == ["", ".flip"]
    assert torch.equal(named[""][0], Pixels(vit())(image)["pixel_values"])
    assert all(torch.equal(same, alike[0]) for alike in named.values() for same in alike)
    assert not torch.equal(named[""][0], named[".flip"][0])


def test_an_image_keeps_its_augmented_views_in_another_set() -> None:
    images = noise_set()
    whole, part = (PixelDataset(each, Pixels(vit(), "crop"), views=2) for each in (images, images.select([4, 1])))
    assert torch.equal(part[0]["pixel_values"], whole[4]["pixel_values"])
    assert torch.equal(part[1]["pixel_values"], whole[1]["pixel_values"])


# Data sets --------------------------------------------------------------------------------------------


def epochs(workers: int, context: str | None = None) -> list[dict[str, Tensor]]:
    dataset = PixelDataset(noise_set(), Pixels(vit(), "crop", 7), views=2)
    loader = DataLoader(
        dataset,
        batch_size=6,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=workers > 0,
    )
    batches = []
    for epoch in range(3):
        dataset.show_view(epoch)
        batches += list(loader)
    return batches


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_batches_have_the_right_shapes_and_views_come_around() -> None:
    first, second, third = epochs(0)
    assert first["pixel_values"].shape == (6, 3, 16, 16)
    assert first["labels"].tolist() == [0, 1, 0, 1, 0, 1]
    assert first["labels"].dtype == torch.int64
    assert not same(first, second)
    assert same(first, third)


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.processes)])
def test_worker_processes_see_the_same_bits(context: str, workers: int) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} here")
    pairs = zip(epochs(0), epochs(workers, context), strict=True)
    assert all(same(here, there) for here, there in pairs)


def test_data_sets_can_be_pickled() -> None:
    dataset = PixelDataset(noise_set(), Pixels(vit(), "crop"), views=4)
    dataset.show_view(3)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert torch.equal(copy[2]["pixel_values"], dataset[2]["pixel_values"])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_the_same_from_a_worker_process(workers: int) -> None:
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = [{"path": "culprit.png", "bytes": b"junk"}]
    images = ImageSet(datasets.Dataset.from_dict({"image": rows}, features), np.zeros(1, dtype=np.int64), "bad")
    loader = DataLoader(PixelDataset(images, Pixels(vit())), collate_fn=collate, num_workers=workers)
    with pytest.raises(UnreadableImageError, match=r"^cannot read the image culprit\.png: .* skip does\)$") as raised:
        list(map(received, loader))
    assert raised.value.reason == NO_IMAGE


def test_collate_takes_items_without_labels() -> None:
    assert collate([{"input_ids": torch.arange(3)}] * 2)["input_ids"].shape == (2, 3)


# Sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "size", "crop"),
    [
        ("ViTImageProcessor", {}, {"height": 96, "width": 96}, None),
        ("CLIPImageProcessor", {}, {"shortest_edge": 96}, 96),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}, {"shortest_edge": 96}, None),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}}, {"shortest_edge": 110}, 96),
        ("BeitImageProcessor", {"size": {"height": 256, "width": 256}, "do_center_crop": True}, None, None),
        ("EfficientNetImageProcessor", {}, {"height": 96, "width": 96}, None),
        ("MobileNetV2ImageProcessor", {}, {"shortest_edge": 110}, 96),
        ("SiglipImageProcessor", {}, {"height": 96, "width": 96}, None),
    ],
)
@pytest.mark.parametrize("suffix", ["", "Pil"])
def test_image_size_is_applied_and_saved(
    name: str, settings: dict[str, Any], size: dict[str, int] | None, crop: int | None, suffix: str, tmp_path: Path
) -> None:
    processor = getattr(transformers, name + suffix)(**settings)
    resize_processor(processor, 96)
    processor.save_pretrained(tmp_path)
    loaded = type(processor).from_pretrained(tmp_path)
    for each in (processor, loaded):
        assert Pixels(each)(noise(200, 150))["pixel_values"].shape == (3, 96, 96)
        if size is not None:
            assert {key: value for key, value in dict(each.size).items() if value is not None} == size
        if crop is not None:
            assert each.crop_size["height"] == crop


def test_image_size_of_timm_is_saved_with_the_model(tmp_path: Path) -> None:
    model, processor = embedded_model(ANIMALS)
    resize_processor(processor, 96, model.config)
    model.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).pretrained_cfg["input_size"] == [3, 96, 96]
    assert Pixels(loaded)(noise())["pixel_values"].shape == (3, 96, 96)
    assert Pixels(loaded).fingerprint() == Pixels(processor).fingerprint()


def test_image_size_of_timm_needs_the_config_it_is_saved_in() -> None:
    with pytest.raises(ValueError, match="config"):
        resize_processor(embedded_model(["a", "b"])[1], 96)


@pytest.mark.parametrize(
    "processor",
    [
        lambda: transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=16),
        lambda: transformers.ViTImageProcessor(do_resize=False),
        lambda: transformers.BitImageProcessor(do_center_crop=False),
        lambda: transformers.ImageGPTImageProcessor(clusters=np.zeros((2, 3)), size={"height": 4, "width": 4}),
    ],
)
def test_processors_without_a_square_size_refuse(processor: Any) -> None:
    with pytest.raises(ArgumentError, match=r"--image_size 32.*leave the flag out"):
        resize_processor(processor(), 32)


def test_images_of_several_shapes_are_named(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (30 + number, 20)).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    images = load_image_sets(DataArguments(train_dir=str(tmp_path), validation_dir=str(tmp_path)), 0).train
    keeps = PixelDataset(images, Pixels(transformers.ViTImageProcessor(do_resize=False)))
    with pytest.raises(DataError, match=r"a/0\.png \(3 x 20 x 30\) and a/2\.png \(3 x 20 x 32\); give --image_size"):
        list(DataLoader(keeps, batch_size=4, collate_fn=collate))
    assert len(list(DataLoader(keeps, batch_size=1, collate_fn=collate))) == 4
