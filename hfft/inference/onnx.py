"""A finished model as an ONNX file, held against PyTorch on real images before it counts as done."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hfft._version import __version__
from hfft.arguments import DataArguments, ExportArguments
from hfft.data.images import open_image
from hfft.data.load import load_image_sets
from hfft.data.preprocessing import collate
from hfft.data.sampling import sample
from hfft.errors import ArgumentError, HfftError, ModelError, OutputError, one_line
from hfft.files import whole_file
from hfft.inference.classifier import Classifier, find_images, load_classifier
from hfft.models.checkpoint import make_output_folder
from hfft.models.features import head_reads
from hfft.models.forward import logits_of
from hfft.output_folder import RECORD, claim
from hfft.trust.known import neighbour_place

if TYPE_CHECKING:
    import onnxruntime


_MOST_BYTES = 2_000_000_000  # a protobuf message holds 2 GiB, and a model in a single file is one message


@dataclass(frozen=True)
class Parity:
    """How close an exported model is to PyTorch.

    Args:
        images: how many real images both saw.
        source: where those came from.
        difference: the largest difference of a logit.
        scale: the largest absolute logit.
        same_labels: how many images got the same label, labels or values from both.
        others: the largest difference of a probability, or of a distance from the training images.
        replies: what the labels are called.
    """

    images: int
    source: str
    difference: float
    scale: float
    same_labels: int
    others: float = 0.0
    replies: str = "labels"


def export(output: str | Path, options: ExportArguments) -> tuple[Path, Parity]:
    """Export a finished model to ONNX and check the file against PyTorch.

    The file takes batches of any size and returns ``logits``, calibrated ``probabilities`` (or ``values``, of a
    regression) and, where the model came with its training images, ``unknown_score``: above 1 an image is unlike them.
    Its metadata holds the labels and the preprocessing as JSON (``labels``, ``preprocessing``).

    Args:
        output: a run's output folder, or a repository on the Hub.
        options: where to, and which images the check uses.

    Returns:
        The file and how close it is.

    Raises:
        ModelError: the model cannot be loaded or exported, or the exported one differs too much; no file is left.
        DataError: the images of the check cannot be read.
        OutputError: the file cannot be written.
    """
    _require("onnx", "onnxruntime", "onnxscript")
    classifier = load_classifier(output, token=options.token, device="cpu")
    path = _target(output, options.output_file)
    if path.exists() and not _is_own(path):
        raise OutputError(f"{path} was not written by hfft; choose another --output_file")
    images, source = check_images(classifier, options)
    inputs = collate([classifier.pixels(image) for image in images])
    try:
        with whole_file(path) as partial:
            write_onnx(classifier, inputs, partial)
            parity = compare(classifier, inputs, partial, source)
            if parity.difference > options.tolerance * max(1.0, parity.scale):
                raise ModelError(
                    f"the exported model is not the model: on {parity.images} images its logits differ by up to "
                    f"{parity.difference:.2e} on a scale of {parity.scale:.2f}, and --tolerance {options.tolerance:g} "
                    f"allows {options.tolerance * max(1.0, parity.scale):.2e}; {path} was not written"
                )
            if parity.others > options.tolerance:
                raise ModelError(
                    f"the exported model is not the model: on {parity.images} images its probabilities, or its "
                    f"distances from the training images, differ by up to {parity.others:.2e}, and --tolerance "
                    f"{options.tolerance:g} is less; {path} was not written"
                )
            if (path.parent / RECORD).exists():
                claim(path.parent, [path.name])
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; free some room") from error
    return path, parity


def describe_export(path: Path, parity: Parity) -> str:
    """Say in a line what was written and how close it is."""
    return (
        f"Wrote {path}. On {parity.images} images ({parity.source}) its logits differ from PyTorch's by at most "
        f"{parity.difference:.2e}, on a scale of {parity.scale:.2f}; "
        f"{parity.same_labels} of {parity.images} {parity.replies} agree."
    )


def check_images(classifier: Classifier, options: ExportArguments) -> tuple[list[Image.Image], str]:
    """Real images for the check: those given, else the run's own validation images, else the embedded ones.

    Returns:
        At least two images, and where they came from.

    Raises:
        DataError: images that were given cannot be read, or are none.
    """
    if options.images is not None:
        files = find_images([options.images])[: options.check_images]
        return _twice([open_image(file, file, classifier.pixels.least) for file in files]), options.images
    if classifier.record is not None:
        known = {item.name for item in fields(DataArguments)}
        given = {name: value for name, value in classifier.record.arguments.items() if name in known}
        try:
            return _from_sets(DataArguments(**given), options.check_images)
        except HfftError:
            pass  # the run's images may be on another machine; the embedded ones are real images as well
    return _from_sets(DataArguments(), options.check_images)


def write_onnx(classifier: Classifier, inputs: dict[str, Tensor], path: Path) -> None:
    """Write the ONNX file, with labels and preprocessing in its metadata.

    Args:
        classifier: on the CPU.
        inputs: model inputs of at least two images; every batch size is allowed later.
        path: where to.

    Raises:
        ModelError: the model cannot be traced, or is too large for a single file.
        OSError: the file cannot be written.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in classifier.model.state_dict().values())
    if size > _MOST_BYTES:
        raise ModelError(f"{classifier.name} takes {size / 1e9:.1f} GB; an ONNX file holds 2 GB at most")
    wrapped = _Outputs(classifier)
    wrapped.train(False)
    shapes = {"inputs": {name: {0: "batch"} for name in inputs}}
    try:
        # With gradients the trace of Swin's attention holds a view that the exporter cannot take apart.
        with _without_warnings(), torch.no_grad():
            program = torch.onnx.export(
                wrapped,
                (),
                kwargs=inputs,
                dynamic_shapes=shapes,
                output_names=wrapped.names,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter, the tracer and every model's own code have their own types
        reason = one_line(error.__cause__ or error)[:300]  # the exporter's own text is advice for PyTorch's authors
        raise ModelError(f"{type(classifier.model).__name__} cannot be exported to ONNX: {reason}") from error
    assert program is not None
    program.model.metadata_props.update(metadata_of(classifier, inputs))
    program.save(path, external_data=False)


def metadata_of(classifier: Classifier, inputs: dict[str, Tensor]) -> dict[str, str]:
    """Describe labels and preprocessing, each as JSON, for whoever has the file alone."""
    processor = classifier.pixels.processor
    preprocessing = {
        "color": "RGB",
        "orientation": "upright, as EXIF says",
        "inputs": {name: ["batch", *tensor.shape[1:]] for name, tensor in inputs.items()},
        "types": {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in inputs.items()},
        "decoding": "a JPEG may be decoded at a half, a quarter or an eighth while both sides keep `least` pixels",
        "least": classifier.pixels.least,
        "processor": processor.to_dict(),
    }
    return {
        "producer": f"hfft {__version__}",
        "labels": json.dumps(list(classifier.labels), ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing, default=str),
        "problem_type": classifier.task.problem_type,
        **classifier.task.exported(),
        **({"unknown_score": _UNKNOWN} if classifier.known is not None else {}),
    }


def compare(classifier: Classifier, inputs: dict[str, Tensor], path: Path, source: str) -> Parity:
    """Run the same images through PyTorch and onnxruntime, in one batch and one by one.

    Raises:
        ModelError: onnxruntime does not take the file.
    """
    import onnx

    wrapped = _Outputs(classifier)
    wrapped.train(False)
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in wrapped(**inputs)]
    try:
        onnx.checker.check_model(str(path), full_check=True)
        session = _session(path)
        batches = [{name: tensor[i : i + 1] for name, tensor in inputs.items()} for i in range(len(expected[0]))]
        each = [_run(session, wrapped.names, batch) for batch in batches]
        single = [np.concatenate(rows) for rows in zip(*each, strict=True)]
        whole = _run(session, wrapped.names, inputs)
    except Exception as error:  # onnx and onnxruntime raise types of their own, some of them not public
        raise ModelError(f"the exported model does not run in onnxruntime: {one_line(error)[:300]}") from error
    # A distance is what the tolerance is for, not its multiple of a threshold that may be tiny.
    # Values of a regression may be large; probabilities are not.
    answers = [1.0, 1 / max(1.0, float(np.abs(expected[1]).max()))]
    scales = [*answers, *([classifier.known.threshold] if classifier.known is not None else [])]
    differences = [
        max(_difference(found[place], expected[place]) for found in (single, whole)) * scale
        for place, scale in enumerate(scales)
    ]
    task = classifier.task
    same = task.same(expected[1], whole[1]) & task.same(expected[1], single[1])
    scale = float(np.abs(expected[0]).max())
    return Parity(len(same), source, differences[0], scale, int(same.sum()), max(differences[1:]), task.replies)


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference; a NaN on either side does not pass for a small one."""
    difference = float(np.abs(found - expected).max())
    return difference if math.isfinite(difference) else math.inf


_UNKNOWN = "of shape (batch,): above 1 an image is unlike the training images, and none of the labels"


class _Outputs(nn.Module):
    """A classifier whose forward returns tensors alone, `names` says which."""

    known: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model, self.classes = classifier.model, len(classifier.labels)
        self.task, self.images = classifier.task, classifier.known
        self.names = ["logits", self.task.output, *(["unknown_score"] * (self.images is not None))]
        if self.images is not None:
            self.register_buffer("known", torch.from_numpy(self.images.features).float())

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        with head_reads(self.model, self.classes) as reads:
            logits = logits_of(self.model(**inputs))
        shares = self.task.tensor_scores(logits)
        if self.images is None:
            return logits, shares
        similarity = nn.functional.normalize(reads[-1][1], dim=1) @ self.known.T
        distance = 1 - similarity.topk(neighbour_place(self.images.labels), dim=1).values[:, -1]
        return logits, shares, distance / self.images.threshold


def _require(*packages: str) -> None:
    import importlib.util

    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ArgumentError(f'--format onnx needs {", ".join(missing)}: pip install "hfft[onnx]"')


def _target(output: str | Path, wanted: str | None) -> Path:
    """Where the file goes: into the run's folder, or the current one where the model is on the Hub."""
    if wanted is not None:
        path = Path(wanted).expanduser()
    else:
        path = Path(output) / "model.onnx" if Path(output).is_dir() else Path("model.onnx")
    if path.is_dir():
        raise OutputError(f"--output_file {path} is a folder; name a file in it")
    make_output_folder(path.parent)
    return path


def _is_own(path: Path) -> bool:
    """Whether a file is an earlier export of hfft's."""
    import onnx

    try:
        properties = onnx.load(str(path), load_external_data=False).metadata_props
    except Exception:  # protobuf's own types; whatever cannot be read as a model is not an export
        return False
    return any(item.key == "producer" and item.value.startswith("hfft ") for item in properties)


def _from_sets(data: DataArguments, count: int) -> tuple[list[Image.Image], str]:
    sets = load_image_sets(data, seed=0)
    few = sample(sets.validation, max(count, len(sets.labels)), seed=0)
    return _twice([few.image(row) for row in range(min(count, len(few)))]), f"{sets.name}, validation"


def _twice(images: list[Image.Image]) -> list[Image.Image]:
    """A single image two times: an exporter that sees a batch of one takes its size for a constant."""
    return images if len(images) > 1 else images * 2


def _session(path: Path) -> onnxruntime.InferenceSession:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, names: list[str], inputs: dict[str, Tensor]) -> list[NDArray[Any]]:
    wanted = {node.name for node in session.get_inputs()}
    feeds = {name: tensor.numpy() for name, tensor in inputs.items() if name in wanted}
    outputs: list[NDArray[Any]] = session.run(names, feeds)
    return outputs


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The exporter warns of its own deprecations, and of model code that nobody here wrote."""
    import logging

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
