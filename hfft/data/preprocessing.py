"""From images to model inputs: the model's own image processor, augmentation, batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from transformers import BaseImageProcessor, PreTrainedConfig

from hfft.arguments.augmentation import AUGMENTATIONS
from hfft.data.images import READING, ImageSet
from hfft.errors import ArgumentError, DataError, HfftError
from hfft.packages import version

if TYPE_CHECKING:
    from transformers import TimmWrapperImageProcessor

FAILED = "failed"
_D = TypeVar("_D")
_R = TypeVar("_R")
_B = TypeVar("_B", bound=Mapping[str, Any])
AUGMENTATION = 2
"""Raised whenever augmentation gives other pixels for the same image, seed and view."""
CROP_AREA = (0.35, 1.0)
"""Smallest and largest share of the image's area that a random crop keeps."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Narrowest and widest crop, as width over height relative to the image's own."""


DETAIL = 2
"""An image that is decoded at a fraction of its size keeps this many times the edge that it is resized to."""


class Pixels:
    """Turns an image into the model's inputs, in the same way in training, evaluation and prediction.

    Args:
        processor: the model's image processor, which resizes and normalises.
        augment: ``none``, ``flip`` (left and right, one time in two), ``crop`` (a random part, and flip),
            ``randaugment`` (flip, and two random changes: Cubuk et al., "RandAugment: practical automated data
            augmentation with a reduced search space", 2020) or ``jitter`` (flip, and random brightness, contrast,
            saturation and hue).
        seed: seed of the augmentation.
        exact: have JPEGs decoded whole, however large they are.

    Attributes:
        least: pixels that both sides of an image need to have; see `hfft.data.images.open_image`.
        grey: whether images are turned grey, for a model of one channel.

    Example:
        >>> Pixels(processor)(image)["pixel_values"].shape  # doctest: +SKIP
        torch.Size([3, 224, 224])
    """

    def __init__(
        self, processor: BaseImageProcessor, augment: str = "none", seed: int = 0, exact: bool = False
    ) -> None:
        if augment not in AUGMENTATIONS:
            raise ArgumentError(f"--augment must be one of {', '.join(AUGMENTATIONS)}, not {augment!r}")
        self.processor = processor
        self.augment = augment
        self.seed = seed
        edge = None if exact else resized_edge(processor)
        # A random crop keeps about half of a side at least.
        self.least = None if edge is None else edge * DETAIL * (2 if augment == "crop" else 1)
        self.grey = reads_grey(processor)

    def __call__(self, image: Image.Image, content: str = "", view: int | None = None) -> dict[str, Tensor]:
        """The inputs of one image, without a batch dimension.

        Args:
            image: in RGB.
            content: SHA-256 of the image's file in hexadecimal digits; needed where `view` is given.
            view: which augmented view; None: the image as it is.

        Returns:
            Every tensor that the processor makes, most often ``pixel_values`` of shape (3, height, width), in grey
            (1, height, width).
            Augmented pixels depend on seed, content and view alone, whatever process, set or order asks for them.
        """
        if view is not None and content and self.augment != "none":
            image = self._augmented(image, content, view)
        if self.grey:
            image = image.convert("L")
        if is_timm(self.processor):
            return {"pixel_values": self.processor.val_transforms(image)}
        inputs = self.processor(images=image, return_tensors="pt")
        return {name: tensor[0] for name, tensor in inputs.items() if isinstance(tensor, Tensor)}

    def fingerprint(self) -> str:
        """SHA-256 over all that the pixels of a view depend on, besides image and view."""
        return hashlib.sha256(f"{self.processing()} {self._augmentation}".encode()).hexdigest()

    def processing(self) -> str:
        """SHA-256 over all that the pixels of an image depend on when it is not augmented."""
        parts: dict[str, Any] = {
            "class": type(self.processor).__name__,
            "processor": self.processor.to_dict(),
            "reading": READING,
            "least": self.least,
            "versions": [version(name) for name in ("transformers", "torchvision", "timm", "pillow")],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def view_names(self, view: int, contents: Sequence[str]) -> list[str]:
        """Tell a view of each image apart from other ones of the same image; empty where it is the image as it is.

        Args:
            view: its number.
            contents: of the images, as for a call.
        """
        if self.augment != "flip":
            return [f".{self._augmentation[:16]}.{view}" if self.augment != "none" else ""] * len(contents)
        random = np.random.RandomState()  # seeded anew for each, which takes a thirteenth of the time of a new one
        names = []
        for content in contents:
            random.seed(self._seed_of(view, content))
            # There are two pictures of an image, however many views.
            names.append(".flip" if random.random_sample() < 0.5 else "")
        return names

    @cached_property
    def _augmentation(self) -> str:
        if self.augment == "none":
            return ""
        parts = [AUGMENTATION, self.augment, self.seed % 2**32, CROP_AREA, CROP_RATIO]
        if self.augment in _TRANSFORMS:
            parts = [*parts[:3], repr(_transform(self.augment)), torch.__version__]  # torch draws the numbers
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _seed_of(self, view: int, content: str) -> list[int]:
        words = [int(content[start : start + 8], 16) for start in range(0, len(content), 8)]
        return [self.seed % 2**32, *words, view]

    def _augmented(self, image: Image.Image, content: str, view: int) -> Image.Image:
        # numpy promises RandomState the same stream in every version.
        random = np.random.RandomState(self._seed_of(view, content))
        flip, area, ratio, left, top = random.random_sample(5)
        if self.augment == "crop":
            image = image.crop(_crop_box(image.size, area, ratio, (left, top)))
        if flip < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.augment not in _TRANSFORMS:
            return image
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own numbers
            torch.default_generator.manual_seed(int(random.randint(2**31)))  # of the CPU alone
            changed: Image.Image = _transform(self.augment)(image)
            return changed


_TRANSFORMS: dict[str, dict[str, Any]] = {
    "randaugment": {"num_ops": 2, "magnitude": 9, "fill": [128, 128, 128]},
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
}


def _transform(name: str) -> Callable[[Image.Image], Image.Image]:
    from torchvision import transforms  # which takes a while to load, and few runs need it

    transform: Callable[[Image.Image], Image.Image] = {
        "randaugment": transforms.RandAugment,
        "jitter": transforms.ColorJitter,
    }[name](**_TRANSFORMS[name])
    return transform


class ShownView:
    """Which augmented view a data set shows: epoch e of the run shows view e modulo `views`.

    The number lies in shared memory, so that worker processes which outlive an epoch see the next one's as well.

    Args:
        views: how many there are.
    """

    def __init__(self, views: int) -> None:
        self.views = views
        self._view: Tensor = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __int__(self) -> int:
        return int(self._view)

    def show(self, epoch: int) -> None:
        """Show the view of this epoch of the run from now on."""
        self._view.fill_(epoch % self.views)


def hand_over(items: Callable[[_D, _R], Any]) -> Callable[[_D, _R], Any]:
    """Let a data set's ``__getitems__`` return hfft's own errors, in a worker, for `received` to raise.

    PyTorch rebuilds a worker's exception from the text of its traceback: its line would have to be read back out of
    that, and what else it holds would be lost.
    """

    @wraps(items)
    def caught(self: _D, rows: _R) -> Any:
        try:
            return items(self, rows)
        except HfftError as error:
            if get_worker_info() is None:
                raise
            return {FAILED: error}

    return caught


def received(batch: _B) -> _B:
    """Return a loader's batch.

    Raises:
        HfftError: a worker handed it over in place of the batch.
    """
    error = batch.get(FAILED)
    if isinstance(error, HfftError):
        raise error
    return batch


class PixelDataset(Dataset[dict[str, Any]]):
    """The items of an ImageSet for a DataLoader: model inputs and ``labels``.

    Args:
        images: the images.
        pixels: how they become model inputs.
        views: how many augmented views there are; epoch e shows view e modulo `views`.
    """

    def __init__(self, images: ImageSet, pixels: Pixels, views: int = 1) -> None:
        self.images = images
        self.pixels = pixels
        self._contents = images.contents() if pixels.augment != "none" else None
        self._view = ShownView(views)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        image = self.images.image(row, self.pixels.least)
        content = self._contents[row] if self._contents is not None else ""
        return {**self.pixels(image, content, int(self._view)), "labels": self.images.labels[row]}

    @hand_over
    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The items of a batch.

        Raises:
            DataError: they differ in shape; two images are named.
        """
        return of_one_shape([self[row] for row in rows], self.images, rows)

    def show_view(self, epoch: int) -> None:
        """Show the view of this epoch of the run from now on."""
        self._view.show(epoch)


def of_one_shape(items: list[dict[str, Any]], images: ImageSet, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Return the items of a batch as they are.

    Args:
        items: model inputs.
        images: the set that they were made of.
        rows: the row of each item in it.

    Raises:
        DataError: they differ in shape; two images are named.
    """
    shapes = [{name: tuple(value.shape) for name, value in item.items() if name != "labels"} for item in items]
    other = next((place for place, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is None:
        return items
    found = [f"{images.files[int(rows[each])]} ({_shown(shapes[each])})" for each in (0, other)]
    raise DataError(
        f"the model's image processor makes inputs of several shapes: {' and '.join(found)}; "
        "give --image_size, or let the processor resize (do_resize in preprocessor_config.json)"
    )


def _shown(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, shape)) for shape in shapes.values())


def collate(items: Sequence[dict[str, Any]] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch of items: tensors stacked along a new first dimension, ``labels`` in int64, or in float32 for numbers.

    Cached activations come as a batch already and stay as they are.
    """
    if isinstance(items, Mapping):
        return dict(items)
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0] if name != "labels"}
    if "labels" in items[0]:
        batch["labels"] = torch.from_numpy(np.stack([np.asarray(item["labels"]) for item in items]))
    return batch


def resize_processor(processor: BaseImageProcessor, image_size: int, config: PreTrainedConfig | None = None) -> None:
    """Make an image processor produce squares of `image_size` pixels, also once saved and loaded again.

    What the processor cuts off around the centre keeps its share. The model itself is not looked at: one
    with position embeddings needs the size as well, when it is loaded.

    Args:
        processor: changed in place.
        image_size: height and width in pixels.
        config: the model's configuration, which timm's processor is saved in.

    Raises:
        ArgumentError: this processor has no such size.
    """
    if is_timm(processor):
        _resize_timm(processor, image_size, config)
    else:
        change_settings(processor, _sizes(processor, image_size))
    inputs = Pixels(processor)(Image.new("RGB", (image_size + 40, image_size + 20)))
    shape = tuple(inputs[processor.model_input_names[0]].shape)
    if shape[-2:] != (image_size, image_size):
        raise ArgumentError(
            f"--image_size {image_size}: {type(processor).__name__} makes inputs of shape {shape}; leave the flag out"
        )


def resized_edge(processor: BaseImageProcessor) -> int | None:
    """Return the longest edge in pixels that a processor resizes images to; None where it keeps their size."""
    if is_timm(processor):
        sizes = [step.size for step in processor.val_transforms.transforms if hasattr(step, "size")]
        return max((_longest(size) for size in sizes), default=None)
    settings = processor.to_dict()
    size = settings.get("size") or {}
    edges = [size[name] for name in ("height", "width", "shortest_edge") if isinstance(size.get(name), int)]
    return max(edges, default=None) if settings.get("do_resize") else None


def change_settings(processor: BaseImageProcessor, changes: Mapping[str, Any]) -> None:
    """Give an image processor of transformers other settings, also once saved and loaded again."""
    vars(processor).update(vars(type(processor).from_dict({**processor.to_dict(), **changes})))


def reads_grey(processor: BaseImageProcessor) -> bool:
    """Return whether an image processor is for one channel, by timm's input size or by its one mean.

    `hfft.models.channels.fit_channels` makes it so for a model that reads grey.
    """
    if is_timm(processor):
        return int(processor.data_config["input_size"][0]) == 1
    mean = getattr(processor, "image_mean", None)
    return isinstance(mean, list | tuple) and len(mean) == 1


def is_timm(processor: BaseImageProcessor) -> TypeGuard[TimmWrapperImageProcessor]:
    """Return whether an image processor is timm's, without loading timm for another."""
    return any(base.__name__ == "TimmWrapperImageProcessor" for base in type(processor).__mro__)


def _longest(size: Any) -> int:
    return int(size if isinstance(size, int) else max(size))


def _resize_timm(processor: TimmWrapperImageProcessor, image_size: int, config: PreTrainedConfig | None) -> None:
    pretrained_cfg = getattr(config, "pretrained_cfg", None)
    if pretrained_cfg is None:
        raise ValueError("timm's image processor is saved in the model's config: pass the config as well")
    pretrained_cfg["input_size"] = [pretrained_cfg["input_size"][0], image_size, image_size]
    architecture = processor.to_dict().get("architecture")
    fresh = type(processor)(pretrained_cfg=pretrained_cfg, architecture=architecture)
    vars(processor).update(vars(fresh))


def _sizes(processor: BaseImageProcessor, image_size: int) -> dict[str, Any]:
    """New values of ``size`` and ``crop_size``, the margin of a centre crop kept in proportion."""
    settings = processor.to_dict()
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    if not settings.get("do_resize") or not set(size) & {"height", "shortest_edge"}:
        raise ArgumentError(
            f"--image_size {image_size}: {type(processor).__name__} has no fixed image size; leave the flag out"
        )
    cropped = bool(settings.get("do_center_crop")) and "height" in crop
    edge = size.get("height") or size["shortest_edge"]
    resized = max(image_size, round(image_size * edge / crop["height"])) if cropped else image_size
    sizes: dict[str, Any] = {"size": {name: resized for name in size if name != "longest_edge"}}
    return {**sizes, "crop_size": {"height": image_size, "width": image_size}} if crop else sizes


def _crop_box(
    size: tuple[int, int], area: float, ratio: float, corner: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a crop, from numbers drawn evenly between 0 and 1."""
    share = CROP_AREA[0] + area * (CROP_AREA[1] - CROP_AREA[0])
    low, high = np.log(CROP_RATIO[0]), np.log(CROP_RATIO[1])
    stretch = float(np.exp((low + ratio * (high - low)) / 2))
    width = min(size[0], max(1, round(size[0] * share**0.5 * stretch)))
    height = min(size[1], max(1, round(size[1] * share**0.5 / stretch)))
    left, top = int(corner[0] * (size[0] - width + 1)), int(corner[1] * (size[1] - height + 1))
    return left, top, left + width, top + height


def blank_inputs(processor: BaseImageProcessor, count: int = 2) -> dict[str, Tensor]:
    """Return model inputs made of seeded noise images, for looking at a model without any data."""
    generator = torch.Generator().manual_seed(0)
    pixels = Pixels(processor)
    items = []
    for _ in range(count):
        noise = torch.randint(0, 256, (256, 256, 3), dtype=torch.uint8, generator=generator)
        items.append(pixels(Image.fromarray(noise.numpy())))
    return collate(items)
