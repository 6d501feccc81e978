"""Which formats there are, and which are refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from hfft.errors import ArgumentError
from hfft.inference.export.formats import Format, int8_onnx, open_onnx, open_openvino, whole_onnx, write_openvino
from hfft.inference.export.web import WEB

FORMATS = {
    "onnx": Format(whole_onnx, open_onnx),
    "openvino": Format(write_openvino, open_openvino, ("onnx", "onnxscript", "openvino"), "openvino"),
    "int8": Format(int8_onnx, open_onnx, exact=False),
    "web": WEB,
}
NOT_WRITTEN = {
    "coreml": "its models run on macOS alone, so that none could be held against PyTorch here; convert the checkpoint "
    "there with coremltools",
    "executorch": "the package executorch is built for one version of torch each; export the checkpoint in an "
    "environment of its own, as its documentation says",
    "tflite": "it needs the package litert-torch, which hfft does not work with yet; give the checkpoint to it",
}
"""Formats that people ask for, and why they are refused."""


def formats_of(names: Iterable[str]) -> dict[str, Format]:
    """Return formats by name.

    Raises:
        ArgumentError: one is not written, or a package for it is missing.
    """
    found = {}
    for name in names:
        if name in NOT_WRITTEN:
            raise ArgumentError(f"hfft does not write --to {name}: {NOT_WRITTEN[name]}")
        found[name] = FORMATS[name]
        missing = [each for each in FORMATS[name].packages if importlib.util.find_spec(each) is None]
        if missing:
            extra = FORMATS[name].extra
            raise ArgumentError(f'--to {name} needs {", ".join(missing)}: pip install "hfft[{extra}]"')
    return found
