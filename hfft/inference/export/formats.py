"""The formats of an export: how each is written from the three graphs, and how what was written is run again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper

from hfft.errors import ModelError, one_line
from hfft.inference.export.graphs import joined, session_of
from hfft.inference.export.parity import Answers, Runner
from hfft.inference.export.quantize import quantized
from hfft.inference.export.recipe import Recipe

if TYPE_CHECKING:
    from hfft.inference.classifier import Classifier

ONNX_FILE, OPENVINO_FILE = "model.onnx", "model.xml"


@dataclass(frozen=True)
class Parts:
    """What every format is made of.

    Args:
        front: from bytes to ``pixel_values``.
        core: the model.
        tail: from what the head reads to ``unknown_score``; None without training images.
        metadata: labels, card and what the outputs mean.
        calibration: returns model inputs of training images, each of shape (1, 3, height, width).
        classifier: the model in PyTorch.
        recipe: of the preprocessing.
    """

    front: ModelProto
    core: ModelProto
    tail: ModelProto | None
    metadata: dict[str, str]
    calibration: Callable[[], Iterable[NDArray[np.float32]]]
    classifier: Classifier
    recipe: Recipe

    def whole(self, core: ModelProto | None = None) -> ModelProto:
        """Return the three graphs as one, described; `core` in place of the model's own."""
        return described(joined(core or self.core, self.tail, self.front), self.metadata)


@dataclass(frozen=True)
class Format:
    """A format of an export.

    Args:
        write: writes it into a folder that is there and empty.
        open: opens what was written.
        exact: whether it computes with the same numbers as PyTorch, and not with coarser ones.
        one_label: whether it takes models alone whose labels exclude each other.
        note: what else to say of what was written, after a space; most often nothing.
    """

    write: Callable[[Parts, Path], None]
    open: Callable[[Path], Runner]
    exact: bool = True
    one_label: bool = False
    note: Callable[[Parts], str] = lambda parts: ""


def described(model: ModelProto, metadata: dict[str, str]) -> ModelProto:
    """Give a graph its metadata."""
    helper.set_model_props(model, metadata)
    return model


def write_onnx(model: ModelProto, path: Path) -> None:
    """Write a graph that holds together.

    Raises:
        ModelError: it does not.
    """
    onnx.save(model, str(path))
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker's own types, some of them not public
        raise ModelError(f"the exported model is not valid ONNX: {one_line(error)[:300]}") from error


def open_onnx(folder: Path) -> Runner:
    """Open the export in onnxruntime."""
    session = session_of(str(folder / ONNX_FILE))
    names = [each.name for each in session.get_outputs()]

    def run(images: NDArray[np.uint8]) -> Answers:
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return run


def whole_onnx(parts: Parts, folder: Path) -> None:
    """Write the model as ONNX, in one file."""
    write_onnx(parts.whole(), folder / ONNX_FILE)


def int8_onnx(parts: Parts, folder: Path) -> None:
    """Write the model as ONNX with its products in 8 bits."""
    write_onnx(parts.whole(quantized(parts.core, parts.calibration())), folder / ONNX_FILE)


def write_openvino(parts: Parts, folder: Path) -> None:
    """Write the model as OpenVINO's own format, in float32."""
    import openvino

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / ONNX_FILE
        write_onnx(parts.whole(), path)
        model = openvino.Core().read_model(path)
        for name, value in parts.metadata.items():
            model.set_rt_info(value, ["hfft", name])
        openvino.save_model(model, folder / OPENVINO_FILE, compress_to_fp16=False)


def open_openvino(folder: Path) -> Runner:
    """Open the export in OpenVINO on the CPU, in float32."""
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / OPENVINO_FILE, "CPU", options)

    def run(images: NDArray[np.uint8]) -> Answers:
        found = compiled(np.ascontiguousarray(images))
        return {name: np.array(found[output]) for output in compiled.outputs for name in output.names}

    return run
