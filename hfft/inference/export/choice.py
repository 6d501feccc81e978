"""Which formats there are, which packages they need, and which are refused; all of it without those packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from hfft.errors import ArgumentError

_ONNX = ("onnx", "onnxruntime", "onnxscript")
NEEDED = {
    "onnx": (_ONNX, "onnx"),
    "openvino": (("onnx", "onnxscript", "openvino"), "openvino"),
    "int8": (_ONNX, "onnx"),
    "web": (_ONNX, "onnx"),
}
"""By format, the packages that have to be there, by the names they are imported by, and hfft's extra that has them."""
NOT_WRITTEN = {
    "coreml": "its models run on macOS alone, so that none could be held against PyTorch here; convert the checkpoint "
    "there with coremltools",
    "executorch": "the package executorch is built for one version of torch each; export the checkpoint in an "
    "environment of its own, as its documentation says",
    "tflite": "it needs the package litert-torch, which hfft does not work with yet; give the checkpoint to it",
}
"""Formats that people ask for, and why they are refused."""


def check_formats(names: Iterable[str]) -> None:
    """Make sure that formats can be written.

    Raises:
        ArgumentError: one is not written, or a package for it is missing.
    """
    for name in names:
        if name in NOT_WRITTEN:
            raise ArgumentError(f"hfft does not write --to {name}: {NOT_WRITTEN[name]}")
        packages, extra = NEEDED[name]
        missing = [each for each in packages if importlib.util.find_spec(each) is None]
        if missing:
            raise ArgumentError(f'--to {name} needs {", ".join(missing)}: pip install "hfft[{extra}]"')
