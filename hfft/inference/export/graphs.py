"""The ONNX graphs of an export: preprocessing before the model, the model, and the comparison with training images.

The resizing is written out as two products with matrices of weights, as Pillow and torchvision resize: across, round,
down, round. ONNX has Resize with antialiasing as well, but onnxruntime's differs from Pillow by up to 20 of 255 levels
and other runtimes' from onnxruntime's; products mean the same everywhere.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from hfft._version import __version__
from hfft.bars import bar
from hfft.errors import ModelError, one_line
from hfft.inference.export.recipe import Geometry, Recipe, unfit
from hfft.models.features import head_reads
from hfft.models.forward import logits_of
from hfft.report.card_metadata import base_name, data_name
from hfft.report.typed_json import plain
from hfft.split.engines import quiet_exporters
from hfft.trust.distances import Neighbours, Whitened
from hfft.trust.known import KnownImages

if TYPE_CHECKING:
    from hfft.data.preprocessing import Pixels
    from hfft.inference.classifier import Classifier

OPSET, IR_VERSION = 18, 10
"""Of every graph: old enough for runtimes that are years behind, the browser's among them."""
PRODUCER = "hfft "
"""How the entry ``producer`` of the metadata begins."""
_MOST_BYTES = 2_000_000_000  # a protobuf message holds 2 GiB, and a model in a single file is one message
# Of 255, that pixels of the graph may differ from the processor's, at most and on average: torchvision's kernel for
# bytes has weights of few bits, and is up to 2 levels from Pillow's as well.
_MOST_LEVELS, _MEAN_LEVELS = 4.0, 0.25
_SHAPES = ((61, 97), (113, 50), (64, 64), (301, 410), (23, 19))  # height and width, odd and even


class Nodes:
    """A graph that grows by calls: each adds a node and returns the name of its output.

    Args:
        prefix: of every name, so that graphs can be put together.

    Example:
        >>> n = Nodes("x")
        >>> n("Mul", n("Add", "images", 1.0), 2.0)
        'x_4'
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []

    def __call__(self, operator: str, *inputs: Any, output: str = "", more: int = 0, **attributes: Any) -> str:
        """Add a node.

        Args:
            operator: of ONNX.
            inputs: names, or numbers that become constants: int as int64, float as float32.
            output: its name where it is the graph's.
            more: how many outputs the operator has that nobody reads, after the first.
            attributes: of the operator.
        """
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        name = output or f"{self.prefix}_{len(self.nodes)}"
        unread = [f"{name}_unread_{place}" for place in range(more)]
        self.nodes.append(helper.make_node(operator, names, [name, *unread], name=f"{name}_node", **attributes))
        return name

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> ModelProto:
        """Return the graph as a model."""
        graph = helper.make_graph(self.nodes, self.prefix, inputs, outputs)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype.kind in "if" and array.dtype != np.float16:
            array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        return self("Constant", value=numpy_helper.from_array(array))


def front_graph(recipe: Recipe) -> ModelProto:
    """Return the graph from ``images``, uint8 of shape (batch, height, width, 3), to ``pixel_values``."""
    n, geometry = Nodes("front"), recipe.geometry
    height, width = (n("Squeeze", n("Shape", "images", start=axis, end=axis + 1)) for axis in (1, 2))
    rows, columns = _resized(n, geometry, height, width)
    down = _weights(n, geometry, height, rows, geometry.crop[0])
    across = _weights(n, geometry, width, columns, geometry.crop[1])
    planes = n("Cast", n("Transpose", "images", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    narrow = _levels(n, n("MatMul", planes, n("Transpose", across, perm=[1, 0])))
    small = _levels(n, n("MatMul", down, narrow))
    if recipe.channels != (0, 1, 2):
        small = n("Gather", small, list(recipe.channels), axis=1)
    scaled = n("Mul", small, np.reshape(recipe.scale, (1, 3, 1, 1)))
    n("Add", scaled, np.reshape(recipe.offset, (1, 3, 1, 1)), output="pixel_values")
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])
    return n.model([images], [_floats("pixel_values", ["batch", 3, *geometry.crop])])


def prove(recipe: Recipe, pixels: Pixels) -> None:
    """Hold the graph of a recipe against the processor that it was read off, on images of several shapes.

    Raises:
        ModelError: a pixel differs by more than rounding.
    """
    session = session_of(front_graph(recipe))
    level = np.abs(np.reshape(recipe.scale, (3, 1, 1)))
    random = np.random.default_rng(0)
    for height, width in _SHAPES:
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        expected = pixels(Image.fromarray(image))["pixel_values"].numpy()
        (found,) = session.run(["pixel_values"], {"images": image[None]})
        if found[0].shape != expected.shape:
            raise unfit(pixels.processor, f"it makes inputs of shape {expected.shape}")
        levels = np.abs(found[0] - expected) / level
        if not (levels.max() <= _MOST_LEVELS and levels.mean() <= _MEAN_LEVELS):
            why = f"on an image of {width} x {height} pixels the two differ by up to {levels.max():.1f} of 255 levels"
            raise unfit(pixels.processor, why)


def _resized(n: Nodes, geometry: Geometry, height: str, width: str) -> tuple[Any, Any]:
    """Return height and width after the resizing, as names of int64 scalars or as numbers."""
    if geometry.stretched is not None:
        return geometry.stretched
    assert geometry.edge is not None
    short, long = n("Min", height, width), n("Max", height, width)
    other = n("Div", n("Mul", long, geometry.edge), short)
    upright = n("LessOrEqual", width, height)
    return n("Where", upright, other, geometry.edge), n("Where", upright, geometry.edge, other)


def _weights(n: Nodes, geometry: Geometry, old: str, new: Any, count: int) -> str:
    """Add the weights with which `old` pixels become `count` from the middle of `new`, shape (count, old)."""
    free = n("Sub", new, count)
    start = n("Div", free, 2)
    if geometry.even:
        start = n("Cast", n("Round", n("Mul", _float(n, free), 0.5)), to=TensorProto.INT64)
    scale = n("Div", _float(n, old), _float(n, new))
    centres = n("Mul", n("Add", _float(n, n("Range", start, n("Add", start, count), 1)), 0.5), scale)
    places = n("Add", _float(n, n("Range", 0, old, 1)), 0.5)
    apart = n("Sub", n("Unsqueeze", places, [0]), n("Unsqueeze", centres, [1]))
    weights = _kernel(n, geometry.kernel, n("Abs", n("Div", apart, n("Max", scale, 1.0))))
    return n("Div", weights, n("ReduceSum", weights, [1], keepdims=1))


def _kernel(n: Nodes, kernel: str, apart: str) -> str:
    """Add the weight of pixels that lie `apart` from a centre, in widths of the kernel."""
    if kernel == "bilinear":
        return n("Relu", n("Sub", 1.0, apart))
    square = n("Mul", apart, apart)
    near = n("Add", n("Mul", n("Sub", n("Mul", apart, 1.5), 2.5), square), 1.0)
    inner = n("Add", n("Mul", n("Sub", apart, 5.0), square), n("Sub", n("Mul", apart, 8.0), 4.0))
    far = n("Where", n("Less", apart, 2.0), n("Mul", inner, -0.5), 0.0)
    return n("Where", n("Less", apart, 1.0), near, far)


def _levels(n: Nodes, values: str) -> str:
    return n("Clip", n("Floor", n("Add", values, 0.5)), 0.0, 255.0)


def _float(n: Nodes, value: Any) -> str:
    return n("Cast", value, to=TensorProto.FLOAT)


def core_graph(classifier: Classifier, inputs: dict[str, Tensor]) -> ModelProto:
    """Return the model itself: from ``pixel_values`` to ``logits``, what they stand for, and what the head reads.

    The head's ``features`` come out where images are compared with the training images.

    Args:
        classifier: on the CPU.
        inputs: model inputs of at least two images; every batch size is allowed later.

    Raises:
        ModelError: the model cannot be traced, or is too large for a single file.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in classifier.model.state_dict().values())
    if size > _MOST_BYTES:
        raise ModelError(f"{classifier.name} takes {size / 1e9:.1f} GB; an ONNX file holds 2 GB at most")
    names = ["logits", classifier.task.output, *(["features"] * (classifier.known is not None))]
    wrapped = _Outputs(classifier)
    wrapped.train(False)
    try:
        # With gradients the trace of Swin's attention holds a view that the exporter cannot take apart.
        with quiet_exporters(), torch.no_grad(), bar(total=1, desc="Tracing the model", unit="graph"):
            program = torch.onnx.export(
                wrapped,
                (),
                kwargs={"inputs": inputs},  # as one argument, since not all releases see through **inputs
                dynamic_shapes={"inputs": {name: {0: "batch"} for name in inputs}},
                input_names=list(inputs),
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter, the tracer and every model's own code have their own types
        reason = one_line(error.__cause__ or error)[:300]  # the exporter's own text is advice for PyTorch's authors
        raise ModelError(f"{type(classifier.model).__name__} cannot be exported to ONNX: {reason}") from error
    assert program is not None
    model: ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    for node in model.graph.node:
        del node.metadata_props[:]  # where in whose files each node was traced
    return model


def tail_graph(classifier: Classifier) -> ModelProto | None:
    """Return the graph from ``tail_features`` to ``unknown_score``; None where the model came without its images."""
    known = classifier.known
    if known is None:
        return None
    n = Nodes("tail")
    _unknown(n, known)
    return n.model(
        [_floats("tail_features", ["batch", known.features.shape[1]])], [_floats("unknown_score", ["batch"])]
    )


def _unknown(n: Nodes, known: KnownImages) -> None:
    """Add the distance from the training images over the largest that counts as known."""
    length = n("ReduceL2", "tail_features", [1], keepdims=1)
    unit = n("Div", "tail_features", n("Max", length, float(np.finfo(np.float32).tiny)))
    distance = known.distance
    if isinstance(distance, Whitened):
        apart = _from_means(n, n("Where", n("Equal", length, 0.0), distance.opposite, unit), distance)
    else:
        apart = _from_images(n, unit, distance)
    n("Div", apart, float(known.threshold), output="unknown_score")


def _from_means(n: Nodes, unit: str, distance: Whitened) -> str:
    """Add the Mahalanobis distance to the nearest class mean, in float32."""
    placed = n("MatMul", n("Sub", unit, distance.centre), distance.matrix)
    means = n("Constant", value=numpy_helper.from_array(distance.means.astype(np.float32)))
    order = n("Sub", distance.halves, n("MatMul", placed, n("Transpose", means, perm=[1, 0])))
    nearest = n("Gather", means, n("ArgMin", order, axis=1, keepdims=0), axis=0)
    return n("ReduceL2", n("Sub", placed, nearest), [1], keepdims=0)


def _from_images(n: Nodes, unit: str, distance: Neighbours) -> str:
    """Add one less the cosine to a near training image."""
    images = n("Cast", np.ascontiguousarray(distance.known.T, np.float16), to=TensorProto.FLOAT)
    nearest = n("TopK", n("MatMul", unit, images), [distance.place], more=1, axis=1)
    return n("Sub", 1.0, n("Squeeze", n("Slice", nearest, [distance.place - 1], [distance.place], [1]), [1]))


def joined(core: ModelProto, tail: ModelProto | None, front: ModelProto | None = None) -> ModelProto:
    """Put the graphs together; without the front, the whole begins at ``pixel_values``."""
    whole = core
    if tail is not None:
        outputs = [*(value.name for value in core.graph.output if value.name != "features"), "unknown_score"]
        whole = compose.merge_models(core, tail, io_map=[("features", "tail_features")], outputs=outputs)
    if front is not None:
        whole = compose.merge_models(front, whole, io_map=[("pixel_values", "pixel_values")])
    return whole


def metadata_of(classifier: Classifier) -> dict[str, str]:
    """Describe labels, inputs, outputs and the run, for whoever has the file alone."""
    record = classifier.record
    about: dict[str, Any] = {}
    if record is not None:
        about = {
            "base": base_name(record),
            "license": record.base.license,
            "data": data_name(record),
            "policy": record.policy,
            "images": record.data.counts,
            "metrics": {split: metrics.values for split, metrics in record.leading_metrics()},
        }
    unknown = "of shape (batch,): above 1 an image is unlike the training images, and none of the labels"
    return {
        "producer": f"{PRODUCER}{__version__}",
        "labels": json.dumps(list(classifier.labels), ensure_ascii=False),
        "images": "uint8 of shape (batch, height, width, 3), RGB, upright as EXIF says; preprocessing is in the graph",
        "problem_type": classifier.task.problem_type,
        **classifier.task.exported(),
        **({"unknown_score": unknown} if classifier.known is not None else {}),
        "card": json.dumps(plain(about), ensure_ascii=False),
    }


def session_of(model: ModelProto | str) -> Any:
    """Open a graph, or the file of one, in onnxruntime on the CPU."""
    import onnxruntime

    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


class _Outputs(nn.Module):
    """A classifier whose forward returns tensors alone: logits, scores, and what the head reads if that is compared."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model, self.labels, self.task = classifier.model, len(classifier.labels), classifier.task
        self.compares = classifier.known is not None

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        with head_reads(self.model, self.labels) as reads:
            logits = logits_of(self.model(**inputs))
        scores = self.task.tensor_scores(logits)
        return (logits, scores, reads[-1][1]) if self.compares else (logits, scores)


def _floats(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
