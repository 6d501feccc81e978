"""The model in 8-bit numbers: weights by channel, activations by what training images gave."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from hfft.errors import ModelError, one_line

_QUANTIZED = ["Conv", "MatMul", "Gemm"]  # where the time goes; the rest stays in float32
_CLIPPED = ["Relu", "Clip"]  # then what a convolution gives is measured after them, not over a range that they cut off


def quantized(core: ModelProto, inputs: Iterable[NDArray[np.float32]]) -> ModelProto:
    """Return the model with its products in 8 bits.

    Args:
        core: from ``pixel_values`` to logits.
        inputs: of training images, each of shape (1, 3, height, width).

    Raises:
        ModelError: onnxruntime cannot quantize it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as place:
        given, ready, done = (Path(place) / f"{name}.onnx" for name in ("given", "ready", "done"))
        onnx.save(core, str(given))
        try:
            quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(done),
                _reader(inputs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*_QUANTIZED, *_CLIPPED],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # onnxruntime raises its own types, and whatever its passes run into
            raise ModelError(f"onnxruntime cannot quantize the model: {one_line(error)[:300]}") from error
        model = onnx.load(str(done))
        model.ir_version = core.ir_version
        return model


def _reader(inputs: Iterable[NDArray[np.float32]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out one image's inputs after the other."""

        def __init__(self) -> None:
            self.rows = iter(inputs)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            row = next(self.rows, None)
            return None if row is None else {"pixel_values": row}

    return Reader()
