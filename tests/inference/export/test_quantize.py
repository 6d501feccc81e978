"""8-bit products lose what 8 bits must lose, and no more."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from hfft.inference.export.quantize import quantized

CHANNELS = 8


def clipped(weights: np.ndarray) -> onnx.ModelProto:
    """A convolution that reaches far beyond the 0 to 6 that are used of it, and a product that changes nothing."""
    values = {"w": weights[..., None, None], "low": np.float32(0), "high": np.float32(6), "eye": np.eye(CHANNELS)}
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w"], ["wide"]),
        helper.make_node("Clip", ["wide", "low", "high"], ["narrow"]),
        helper.make_node("Flatten", ["narrow"], ["flat"]),
        helper.make_node("Gemm", ["flat", "eye"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 1, 1])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CHANNELS])]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "clipped", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_range_that_is_cut_off_costs_no_precision() -> None:
    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, (CHANNELS, 3)).astype(np.float32)
    weights[:, 0] = 127  # so that 8 bits hold the weights exactly
    images = (random.integers(0, 256, (400, 3, 1, 1)) / 255).astype(np.float32)
    images[0], images[1] = 0, 1
    core = clipped(weights / 2)
    answers = []
    for model in (core, quantized(core, (image[None] for image in images))):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(["logits"], {"pixel_values": images})[0])
    exact, rounded = answers
    assert np.ptp(exact) == 6
    assert np.abs(exact - rounded).max() < 0.05  # two roundings to 6 / 255
