"""Choose what computes the frozen prefix: by measured speed, set-up weighed against images, within a tolerance."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from hfft.arguments import CacheArguments
from hfft.errors import ArgumentError, ModelError
from hfft.files import write_whole
from hfft.models.forward import Inputs
from hfft.split.engines import (
    Engine,
    EngineError,
    difference,
    export_engine,
    is_whole,
    missing_packages,
    native_bf16,
    usable,
    version_of,
)
from hfft.split.halves import Prefix

FEW_ROWS = 200
"""With fewer rows to compute, `auto` takes PyTorch at once."""
TOLERANCE_BF16 = 2e-2
"""For engines in bfloat16, where it was asked for; more where PyTorch's own autocast strays further from float32.

In float16, whose steps are an eighth, it is an eighth."""
_SETUP_SECONDS = {"onnxruntime": 8.0, "openvino": 8.0, "compile": 60.0}  # measured: up to 8.5, and 8 to 74 on two cores
_START_SECONDS = 1.0  # of what is exported already
_HOPE = 0.7  # share of the way to the machine's limit that an engine is expected to come
_CLEARLY = 0.97
_REPEATS = 4


@dataclass(frozen=True)
class EngineUse:
    """What computes a frozen prefix, and what was measured when it was chosen.

    Args:
        name: torch, onnxruntime, openvino or compile.
        version: of that package.
        precision: number format that it computes in; empty for PyTorch, whose precision is the training's.
        difference: largest difference of an activation from PyTorch's in float32, relative to the largest.
        tolerance: that it had to stay within.
        milliseconds: per image; 0 where nothing was measured.
        torch_milliseconds: the same of PyTorch.
        note: why it is not what was asked for.
    """

    name: str = "torch"
    version: str = ""
    precision: str = ""
    difference: float = 0.0
    tolerance: float = 0.0
    milliseconds: float = 0.0
    torch_milliseconds: float = 0.0
    note: str = ""

    @property
    def label(self) -> str:
        """What the cache's key says."""
        return " ".join(part for part in (self.name, self.version, self.precision) if part)

    def describe(self) -> str:
        """Say it in a line; empty where nothing is to be said."""
        if self.name == "torch":
            return f"Prefix engine: torch, {self.note}." if self.note else ""
        if not self.milliseconds:
            return ""
        speed = f"{self.milliseconds:.1f} ms an image, torch {self.torch_milliseconds:.1f}"
        gap = f"activations within {self.difference:.1e} of torch's (tolerance {self.tolerance:g})"
        return f"Prefix engine: {self.label}: {speed}; {gap}."


@dataclass(frozen=True)
class Choice:
    """An engine with its record; None stands for PyTorch."""

    use: EngineUse = field(default_factory=EngineUse)
    engine: Engine | None = None


@dataclass(frozen=True)
class Question:
    """What a choice depends on.

    Args:
        prefix: the frozen part, on its device.
        weights: digest of the frozen tensors.
        batch: gives a batch of real inputs, of the size that the cache is filled with.
        missing: gives the count of rows that are not cached as PyTorch computes them.
        wishes: the user's.
        directory: the cache folder.
    """

    prefix: Prefix
    weights: str
    batch: Callable[[], dict[str, Tensor]]
    missing: Callable[[], int]
    wishes: CacheArguments
    directory: Path

    @property
    def wish(self) -> str:
        """The engine that is asked for."""
        return "torch" if self.wishes.exact else self.wishes.prefix_engine

    @property
    def bf16(self) -> bool:
        """Whether engines may compute in bfloat16: it is asked for, and the machine has it."""
        asked = self.prefix.autocast == torch.bfloat16 or self.wishes.cache_dtype == "bfloat16"
        return asked and (self.prefix.device.type != "cpu" or native_bf16())

    @property
    def folder(self) -> Path:
        """Where exported engines and the decision are kept."""
        prefix = self.prefix
        versions = {name: version_of(name) for name in ("compile", *usable(prefix.device))}
        leaves = [[leaf.key, list(leaf.shape), str(leaf.dtype)] for leaf in prefix.split.leaves]
        inputs = [self.weights, prefix.split.boundary, leaves, str(prefix.autocast), prefix.class_token]
        tolerance = self.wishes.engine_tolerance
        parts = [inputs, str(prefix.memory_format), self.bf16, tolerance, versions, _machine(prefix.device)]
        return self.directory / "engines" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def check_wish(wishes: CacheArguments) -> None:
    """Make sure that an engine that is asked for by name is installed.

    Raises:
        ArgumentError: it is not, and how to install it.
    """
    if missing := missing_packages(wishes.prefix_engine):
        extra = "openvino" if wishes.prefix_engine == "openvino" else "onnx"
        raise ArgumentError(
            f'--prefix_engine {wishes.prefix_engine} needs {", ".join(missing)}: pip install "hfft[{extra}]"'
        )


def choose_engine(question: Question, process: int, processes: int) -> Choice:
    """Choose what computes the prefix; the first process decides for all.

    Raises:
        ArgumentError: the engine that is asked for is not installed.
        ModelError: another process cannot set up what the first one chose.
    """
    check_wish(question.wishes)
    if question.wish == "torch":
        return Choice()
    choice = _decide(question) if process == 0 else Choice()
    if processes == 1:
        return choice
    said = [choice.use]
    torch.distributed.broadcast_object_list(said, src=0)
    if process == 0 or said[0].name == "torch":
        return Choice(said[0], choice.engine)
    try:
        return Choice(said[0], _export(question, said[0].name, question.batch()))
    except EngineError as error:
        raise ModelError(
            f"process {process} cannot set up {said[0].label}, which the first process chose: {error}; "
            "choose --prefix_engine torch"
        ) from error


def _decide(question: Question) -> Choice:
    recorded = _recorded(question)
    if recorded is not None:
        return recorded
    rows = question.missing()
    if question.wish == "auto" and (rows < FEW_ROWS or not usable(question.prefix.device)):
        return Choice()
    race = _Race(question, rows)
    choice = race.run()
    if race.tried and not race.passing:
        _record(question, choice.use)
    return choice


def _export(question: Question, name: str, inputs: Inputs) -> Engine:
    # The exporters know float32 best, and OpenVINO goes to bfloat16 by itself.
    plain = question.prefix if name == "compile" else replace(question.prefix, autocast=None)
    return export_engine(name, plain, inputs, question.folder, question.bf16)


class _Race:
    """Engines against PyTorch on a batch of real images.

    All are held against PyTorch's float32: its own bfloat16 strays by 5e-2 for EfficientNet-Lite0, and an engine that
    keeps to float32 would be ruled out for being closer.
    """

    def __init__(self, question: Question, rows: int) -> None:
        self.question, self.rows = question, rows
        self.inputs = question.batch()
        self.size = next(iter(self.inputs.values())).shape[0]
        plain = replace(question.prefix, autocast=None).capture(self.inputs)
        self.expected = {leaf.key: plain[leaf.key].to(leaf.dtype) for leaf in question.prefix.split.leaves}
        self.rounding = max(
            (torch.finfo(leaf.dtype).eps for leaf in question.prefix.split.leaves if leaf.dtype.is_floating_point),
            default=0.0,
        )
        self.best = Choice()
        self.seconds = _seconds(lambda: question.prefix.capture(self.inputs)) / self.size
        self.torch_seconds = self.seconds
        self.tried: list[str] = []
        self.notes: list[str] = []
        self.passing = False  # an engine failed for want of room or rights, which the next run may have

    def run(self) -> Choice:
        """Try what may pay, and return the fastest that is close enough to PyTorch."""
        forced = self.question.wish != "auto"
        names = [self.question.wish] if forced else usable(self.question.prefix.device)
        for name in names:
            if forced or self._may_pay(name):
                self._try(name, forced)
        if self.best.engine is None:
            note = "; ".join(self.notes) or self._reason()
            return Choice(EngineUse(note=note, torch_milliseconds=self.torch_seconds * 1e3))
        return self.best

    def _reason(self) -> str:
        if self.tried:
            return f"as fast as {', '.join(self.tried)} here ({self.torch_seconds * 1e3:.1f} ms an image)"
        return f"since setting up another takes longer than it saves for {self.rows} images"

    def _may_pay(self, name: str) -> bool:
        """Weigh what the engine may save on the rows to compute against the time that it takes to set up."""
        exported = (self.question.folder / ("aoti" if name == "compile" else "onnx")).exists()
        cost = _START_SECONDS if exported else _SETUP_SECONDS[name]
        saving = self.rows * (self.seconds - _least_seconds(self.question.prefix, self.inputs)) * _HOPE
        return saving > cost

    def _try(self, name: str, forced: bool) -> None:
        question = self.question
        self.tried.append(name)
        try:
            engine = _export(question, name, self.inputs)
            gap = difference(engine.capture(self.inputs), self.expected)
            if not gap <= (allowed := self._tolerance(engine)):
                raise EngineError(f"its activations differ by {gap:.1e}, more than {allowed:g}")
            together = [self.inputs] * engine.lanes  # a batch in every lane at once, as a filling does
            with ThreadPoolExecutor(engine.lanes) as pool:
                ours, theirs = _duel(
                    lambda: question.prefix.capture(self.inputs), lambda: list(pool.map(engine.capture, together))
                )
        except EngineError as error:
            self.notes.append(f"{name} cannot be used: {error}")
            self.passing |= isinstance(error.__cause__, OSError | MemoryError | torch.OutOfMemoryError)
            return
        self.torch_seconds = min(self.torch_seconds, ours / self.size)
        self.seconds = min(self.seconds, self.torch_seconds)
        theirs /= self.size * engine.lanes
        if forced or theirs < _CLEARLY * self.seconds:
            self.seconds = theirs
            self.best = Choice(self._use(engine, gap, allowed), engine)

    def _tolerance(self, engine: Engine) -> float:
        """Return how far an engine's activations may be off, as a share of the largest."""
        if (narrow := self._format(engine)) == torch.float32:
            return max(self.question.wishes.engine_tolerance, self.rounding if self.question.prefix.autocast else 0.0)
        strays = difference(self.question.prefix.capture(self.inputs), self.expected)
        least = TOLERANCE_BF16 * torch.finfo(narrow).eps / torch.finfo(torch.bfloat16).eps
        return max(least, strays if math.isfinite(strays) else 0.0)

    def _format(self, engine: Engine) -> torch.dtype:
        """Return the number format that an engine computes in: what is compiled keeps to autocast's."""
        if engine.name == "compile":
            return self.question.prefix.autocast or torch.float32
        in_bf16 = engine.bf16 and engine.name == "openvino"  # onnxruntime keeps to float32
        return torch.bfloat16 if in_bf16 else torch.float32

    def _use(self, engine: Engine, gap: float, allowed: float) -> EngineUse:
        precision = str(self._format(engine)).removeprefix("torch.")
        times = (self.seconds * 1e3, self.torch_seconds * 1e3)
        return EngineUse(engine.name, version_of(engine.name), precision, gap, allowed, *times)


def _recorded(question: Question) -> Choice | None:
    """Return the decision of an earlier run, where what it exported is still whole."""
    file = question.folder / f"{question.wish}.json"
    try:
        use = EngineUse(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    with suppress(OSError):
        os.utime(question.folder / "entry.json")  # `hfft cache prune` deletes what was used least recently
    if use.name == "torch":
        return Choice(use)
    leaves = tuple((leaf.key, leaf.dtype) for leaf in question.prefix.split.leaves)
    place = question.folder / ("aoti" if use.name == "compile" else "onnx")
    size = next(iter(question.batch().values())).shape[0]
    engine = Engine(use.name, place, leaves, size, question.bf16, question.prefix.device)
    return Choice(use, engine) if is_whole(engine) else None


def _record(question: Question, use: EngineUse) -> None:
    folder = question.folder
    with suppress(OSError):  # the next run then races again
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{question.wish}.json", json.dumps(asdict(use), indent=2).encode())
        entry = {"boundary": question.prefix.split.boundary, "rows": 0}
        write_whole(folder / "entry.json", json.dumps(entry).encode())


def _duel(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the best seconds of each, taken in turns, so that what else the machine does meets both."""
    pairs = [(_seconds(first, 1), _seconds(second, 1)) for _ in range(_REPEATS)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def _seconds(compute: Callable[[], object], repeats: int = 2) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        compute()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def _least_seconds(prefix: Prefix, inputs: Inputs) -> float:
    """Return the seconds of one image if the prefix ran at the rate of this machine's matrix product."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        prefix.capture(dict(inputs))
    matrix = torch.randn(1024, 1024, device=prefix.device, dtype=prefix.autocast or torch.float32)
    seconds = _seconds(lambda: matrix @ matrix, 5)
    size = next(iter(inputs.values())).shape[0]
    return float(counter.get_total_flops() / size * seconds / (2 * 1024**3))


def _machine(device: torch.device) -> str:
    """Name the processor, its instruction set and the count of threads, which a compiled engine is made for."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{platform.machine()} {name} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
