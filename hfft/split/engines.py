"""Inference engines that compute the frozen prefix in PyTorch's place, within a tolerance of its activations.

The prefix is traced as `Split.capture` runs it, so whatever the cache holds comes out of the graph, for every
architecture alike. The batch has one fixed size: a short one is filled up, so that an image's row does not depend
on how many others came with it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hfft.errors import one_line
from hfft.files import sha256_of
from hfft.models.forward import Inputs
from hfft.packages import version
from hfft.split.class_token import class_token_only
from hfft.split.halves import Prefix
from hfft.split.split import Split

Run = Callable[[dict[str, Tensor]], list[Tensor]]

NAMES = ("onnxruntime", "openvino", "compile")
_NEEDS = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx", "onnxscript")}
_MOST_LANES = 16  # decoding holds Python's lock for a part of its time
_STARTING = threading.Lock()  # lanes that begin together load the exported prefix once
_CHECKSUMS = "sha256sums"
_MOST_BYTES = 1_500_000_000  # an ONNX file is one protobuf message of at most 2 GiB; larger weights go beside it


class EngineError(Exception):
    """An engine cannot compute this prefix, and why."""


@dataclass(frozen=True)
class Engine:
    """An exported prefix that an engine runs.

    Args:
        name: onnxruntime, openvino or compile.
        folder: with the exported file.
        leaves: (key, number format) of each tensor that it returns, in order.
        batch: images per call.
        bf16: compute in bfloat16.
        device: that PyTorch's activations are on.
    """

    name: str
    folder: Path
    leaves: tuple[tuple[str, torch.dtype], ...]
    batch: int
    bf16: bool
    device: torch.device

    @property
    def file(self) -> Path:
        """The exported prefix."""
        return self.folder / ("prefix.pt2" if self.name == "compile" else "prefix.onnx")

    @property
    def lanes(self) -> int:
        """How many threads may call `capture` at once, each of which computes on its own share of the cores.

        Threads that share a batch of eight wait for each other in every layer: on two cores two lanes of one thread
        take 5.3 ms an image of EfficientNet-Lite0, decoding included, where one lane of two threads takes 7.5.
        """
        if self.name == "compile" or self.device.type != "cpu":
            return 1
        return min(torch.get_num_threads(), _MOST_LANES)

    @cached_property
    def _run(self) -> Run:
        return _STARTS[self.name](self)

    def capture(self, inputs: Inputs) -> dict[str, Tensor]:
        """Compute what `Prefix.capture` computes: for each leaf its key and a tensor of (batch, *leaf.shape).

        Raises:
            EngineError: the engine refuses.
        """
        size = next(iter(inputs.values())).shape[0]
        parts: list[list[Tensor]] = []
        try:
            with _STARTING:
                run = self._run
            for start in range(0, size, self.batch):
                rows = [min(start + index, size - 1) for index in range(self.batch)]
                made = run({name: tensor[rows] for name, tensor in inputs.items()})
                parts.append([value[: size - start] for value in made])
        except Exception as error:  # each engine has types of its own, some of them not public
            raise EngineError(one_line(error)[:300]) from error
        whole = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
        return {key: value.to(dtype) for (key, dtype), value in zip(self.leaves, whole, strict=True)}


def version_of(name: str) -> str:
    """Return the version of what computes, with PyTorch's beside it, which exported the graph."""
    package = "torch" if name == "compile" else name
    return version(package)


def missing_packages(name: str) -> list[str]:
    """Return the packages that an engine needs and that are not installed."""
    missing = []
    for package in _NEEDS.get(name, ()):
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    return missing


def usable(device: torch.device) -> list[str]:
    """Return the engines that are installed and may pay on a device, those that are set up soonest first.

    On a GPU that is not the compiler, which takes longer than it saves: decoding is the limit there.
    """
    names = [name for name in NAMES if not missing_packages(name)]
    if device.type == "cpu":
        return [name for name in names if name != "compile" or shutil.which(os.environ.get("CXX", "g++"))]
    if "onnxruntime" in names and device.type == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            return ["onnxruntime"]
    return []


def native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def export_engine(name: str, prefix: Prefix, inputs: Inputs, folder: Path, bf16: bool = False) -> Engine:
    """Export a prefix for an engine, or take what an earlier export left in the folder.

    Args:
        name: of the engine.
        prefix: on its device.
        inputs: a batch of the size that every call will have.
        folder: where the exported file is kept, written whole or not at all.
        bf16: let the engine compute in bfloat16.

    Raises:
        EngineError: the prefix cannot be exported, or the file not written.
    """
    leaves = tuple((leaf.key, leaf.dtype) for leaf in prefix.split.leaves)
    size = next(iter(inputs.values())).shape[0]
    place = folder / ("aoti" if name == "compile" else "onnx")
    engine = Engine(name, place, leaves, size, bf16, prefix.device)
    if is_whole(engine):
        return engine
    try:
        shutil.rmtree(place, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
            partial = replace(engine, folder=Path(scratch) / place.name)
            partial.folder.mkdir()
            with quiet_exporters():
                _EXPORTS[name](_traced(prefix, inputs), partial.file)
            (partial.folder / _CHECKSUMS).write_text(_checksums(partial.folder), encoding="utf-8")
            try:
                partial.folder.rename(place)
            except OSError:
                if not is_whole(engine):  # else another process was sooner
                    raise
    except Exception as error:  # the tracer, the exporters, the compiler and every model's code have their own types
        raise EngineError(one_line(error.__cause__ or error)[:300]) from error
    return engine


def is_whole(engine: Engine) -> bool:
    """Whether the exported files are there and have the content that was written."""
    try:
        return (engine.folder / _CHECKSUMS).read_text(encoding="utf-8") == _checksums(engine.folder)
    except OSError:
        return False


def _checksums(folder: Path) -> str:
    """A line for each exported file: large weights lie beside the graph."""
    return "".join(f"{sha256_of(file)}  {file.name}\n" for file in sorted(folder.iterdir()) if file.name != _CHECKSUMS)


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of an activation, relative to its tensor's largest; infinite where not finite."""
    worst = 0.0
    for key, value in expected.items():
        other = found.get(key)
        if other is None or other.shape != value.shape:
            return float("inf")
        gap = float((other.cpu().double() - value.cpu().double()).abs().max())
        ratio = gap / max(float(value.cpu().double().abs().max()), 1e-30)
        worst = max(worst, ratio) if ratio == ratio else float("inf")
    return worst


class _Captured(nn.Module):
    """A prefix as a module: inputs by name -> its leaves in order."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.model = split.model
        self.capture = split.capture

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        values = self.capture(inputs, stop=False)
        return tuple(values.values())


def _traced(prefix: Prefix, inputs: Inputs) -> torch.export.ExportedProgram:
    moved = {name: tensor.to(prefix.device) for name, tensor in inputs.items()}
    split = prefix.split
    with torch.no_grad(), prefix.precision(), class_token_only(split.model, prefix.anatomy, prefix.class_token):
        return torch.export.export(_Captured(split).eval(), (), kwargs=moved, strict=False)


def _write_onnx(program: torch.export.ExportedProgram, file: Path) -> None:
    with torch.no_grad():
        made = torch.onnx.export(program, (), kwargs=dict(program.example_inputs[1]), dynamo=True, verbose=False)
    assert made is not None
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    made.save(file, external_data=size > _MOST_BYTES)


def _write_package(program: torch.export.ExportedProgram, file: Path) -> None:
    if any(tensor.is_cuda for tensor in program.example_inputs[1].values()):
        torch.export.save(program, file)  # PyTorch 2.11 crashes where it loads what was compiled for a GPU
        return
    options = {"freezing": True}
    torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)


def _start_onnxruntime(engine: Engine) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() // engine.lanes
    options.log_severity_level = 3
    cuda = ["CUDAExecutionProvider"] if engine.device.type == "cuda" else []
    session = onnxruntime.InferenceSession(str(engine.file), options, providers=[*cuda, "CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return lambda inputs: [torch.from_numpy(value) for value in session.run(None, _arrays(inputs, names))]


def _start_openvino(engine: Engine) -> Run:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if engine.bf16 else "f32",
        "NUM_STREAMS": engine.lanes,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    model = openvino.Core().compile_model(str(engine.file), "CPU", settings)
    names = [port.any_name for port in model.inputs]
    own = threading.local()  # a request serves one call at a time

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        made = own.request.infer(_arrays(inputs, names))
        return [torch.from_numpy(made[port].copy()) for port in model.outputs]  # it writes to the same memory again

    return run


def _start_compile(engine: Engine) -> Run:
    if engine.device.type == "cuda":
        package: Any = torch.compile(torch.export.load(engine.file).module())
    else:
        package = torch._inductor.aoti_load_package(str(engine.file))

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            made: Any = package(**{name: tensor.to(engine.device).contiguous() for name, tensor in inputs.items()})
        return [value.clone() for value in made]

    return run


def _arrays(inputs: dict[str, Tensor], names: list[str]) -> dict[str, Any]:
    return {name: inputs[name].cpu().contiguous().numpy() for name in names}


_EXPORTS = {"onnxruntime": _write_onnx, "openvino": _write_onnx, "compile": _write_package}
_STARTS = {"onnxruntime": _start_onnxruntime, "openvino": _start_openvino, "compile": _start_compile}


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Within this context no exporter warns of its own deprecations, or of model code that nobody here wrote."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.utils.cpp_extension", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
