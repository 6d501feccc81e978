"""Prefix and suffix of the README's models beside what their operations take at the rate of a matrix product here.

``python scripts/bench_limit.py [--models lite0 resnet18 ...] [--engines onnxruntime openvino]``
Random weights, 224 x 224 pixels, policy ``last_block``. For each model it measures, in turns in one process so that
whatever else the machine does meets all of them alike:

* matrix: a product of 1024 x 1024 matrices, which gives the rate; the *limit* is the counted operations at that rate;
* prefix: a batch of the frozen prefix in PyTorch and in each engine (batches as a filling takes them);
* suffix: a training step (forward, backward, AdamW) on cached activations, in float32, under bfloat16 autocast, and
  with --compile_suffix also with the retrained modules compiled by inductor.

The allocator's thresholds are measured in processes of their own, off and on in turns. Every time is the best of its
turns. It prints Markdown tables and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from bench_cache import MODELS
from bench_cache import TITLES as MODEL_TITLES
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

from hfft.cache.fill import fill_batch
from hfft.machine import MEMORY_SWITCH, keep_freed_memory
from hfft.models.forward import logits_of
from hfft.planning.freezing import freeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import find_anatomy
from hfft.split.cut import cut_phase
from hfft.split.engines import Engine, EngineError, difference, export_engine, usable
from hfft.split.halves import Prefix, Suffix

NAMES = ["lite0", "resnet18", "resnet50", "vit_s16", "convnext_t", "swin_t"]
TITLES = {"lite0": "EfficientNet-Lite0", **MODEL_TITLES}
TRAINING_BATCH = 32
_SIDE = 1024


@dataclass
class Result:
    """What one model takes, in milliseconds per image, and the counted operations in GFLOP per image.

    Args:
        model: its name.
        rate: GFLOP per second of the matrix product, the best of its turns.
        prefix_gflop: of the frozen prefix.
        prefix: by engine.
        differences: of the engines' activations from PyTorch's, relative to the largest.
        setup_seconds: to export and start each engine, those before it being there.
        suffix_gflop: of a training step.
        suffix: by way of training.
    """

    model: str
    rate: float = 0.0
    prefix_gflop: float = 0.0
    prefix: dict[str, float] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    setup_seconds: dict[str, float] = field(default_factory=dict)
    suffix_gflop: float = 0.0
    suffix: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def share(self, gflop: float, milliseconds: float) -> float:
        """Return the share of the matrix product's rate at which something computes."""
        return gflop / self.rate * 1e3 / milliseconds


def main() -> None:
    """Measure every model, then the allocator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--engines", nargs="+", help="by default all that are installed but compile")
    parser.add_argument("--compile_suffix", action="store_true")
    parser.add_argument("--allocator", nargs="*", choices=NAMES, default=["lite0", "resnet50"])
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--json", type=Path, help="file for the measurements")
    parser.add_argument("--pages", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pages:
        print(json.dumps(measure_pages(options.pages)))
        return
    keep_freed_memory()
    engines = options.engines or [name for name in usable(torch.device("cpu")) if name != "compile"]
    results = []
    for name in options.models:
        results.append(measure(name, engines, options.turns, options.compile_suffix))
        print(asdict(results[-1]), file=sys.stderr, flush=True)
    pages = {name: allocator(name) for name in options.allocator}
    print("\n\n".join([prefix_table(results), suffix_table(results), pages_table(pages)]))
    if options.json:
        machine = {"cpu": _cpu(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        content = {"machine": machine, "results": [asdict(result) for result in results], "allocator": pages}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def build(name: str) -> PreTrainedModel:
    """Return a seeded model of random weights, as hfft holds it."""
    torch.manual_seed(0)
    if name == "lite0":
        config = TimmWrapperConfig.from_dict({"architecture": "tf_efficientnet_lite0", "num_classes": 10})
        model: PreTrainedModel = TimmWrapperForImageClassification(config)
    else:
        model = MODELS[name]()
    nn.Module.to(model, memory_format=torch.channels_last)
    model.eval()
    return model


def split(name: str, batch: int) -> tuple[PreTrainedModel, Prefix, Suffix, dict[str, Tensor]]:
    """Return a model with its two halves and a batch of pixels."""
    model = build(name)
    anatomy = find_anatomy(model)
    phase = make_plan(model, anatomy, "last_block", 1).phases[0]
    freeze(model, phase)
    pixels = {"pixel_values": torch.randn(batch, 3, 224, 224)}
    cut = cut_phase(model, anatomy, phase, {"pixel_values": pixels["pixel_values"][:2]})
    assert cut.split is not None
    device = torch.device("cpu")
    prefix = Prefix(cut.split, anatomy, cut.class_token, device, None, torch.channels_last)
    return model, prefix, Suffix(anatomy, cut.split, cut.class_token, torch.channels_last), pixels


def measure(name: str, engines: list[str], turns: int, compile_suffix: bool) -> Result:
    """Measure one model."""
    result = Result(name)
    model, prefix, suffix, pixels = split(name, fill_batch(torch.device("cpu")))
    size = len(pixels["pixel_values"])
    result.prefix_gflop = _gflop(lambda: prefix.capture(pixels)) / size
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], object]] = {"torch": lambda: prefix.capture(pixels)}
        for engine in engines:
            _add_engine(engine, prefix, pixels, Path(folder), (ways, result))
        times = in_turns({"matrix": _matrix(), **ways}, turns)
    result.rate = 2 * _SIDE**3 / times.pop("matrix") / 1e9
    result.prefix = {way: seconds / size * 1e3 for way, seconds in times.items()}
    _measure_suffix((model, prefix, suffix), result, turns, compile_suffix)
    return result


def _add_engine(
    name: str,
    prefix: Prefix,
    pixels: dict[str, Tensor],
    folder: Path,
    into: tuple[dict[str, Callable[[], object]], Result],
) -> None:
    ways, result = into
    for bf16 in (False, True) if name == "openvino" else (False,):
        label, began = f"{name} bf16" if bf16 else name, time.perf_counter()
        try:
            engine = export_engine(name, prefix, pixels, folder, bf16)
            gap = difference(engine.capture(pixels), prefix.capture(pixels))
        except EngineError as error:
            result.notes.append(f"{label}: {error}")
            continue
        result.setup_seconds[label] = time.perf_counter() - began
        result.differences[label] = gap
        ways[label] = _in_all_lanes(engine, pixels)


def _in_all_lanes(engine: Engine, pixels: dict[str, Tensor]) -> Callable[[], float]:
    """Return what computes a batch in every lane at once, as a filling does; it gives its own seconds for one batch."""
    pool = ThreadPoolExecutor(engine.lanes)

    def compute() -> float:
        began = time.perf_counter()
        list(pool.map(engine.capture, [pixels] * engine.lanes))
        return (time.perf_counter() - began) / engine.lanes

    return compute


def _measure_suffix(
    halves: tuple[PreTrainedModel, Prefix, Suffix], result: Result, turns: int, compile_suffix: bool
) -> None:
    model, prefix, suffix = halves
    pixels = {"pixel_values": torch.randn(TRAINING_BATCH, 3, 224, 224)}
    activations = {key: value.clone() for key, value in prefix.capture(pixels).items()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-6, fused=True)
    labels = torch.arange(TRAINING_BATCH) % int(model.config.num_labels or 1)

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), suffix.inputs(model, activations) as inputs:
            loss = F.cross_entropy(logits_of(model(**inputs)).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    freeze_batch_norms(model)
    result.suffix_gflop = _gflop(lambda: step(False)) / TRAINING_BATCH
    ways: dict[str, Callable[[], object]] = {"float32": lambda: step(False), "bfloat16": lambda: step(True)}
    if compile_suffix and not suffix.class_token:  # the shortcut replaces the block's forward for each batch
        ways["compiled"] = _compiled(model, suffix, lambda: step(False))
    times = in_turns(ways, turns)
    result.suffix = {way: seconds / TRAINING_BATCH * 1e3 for way, seconds in times.items()}


def _compiled(model: PreTrainedModel, suffix: Suffix, step: Callable[[], None]) -> Callable[[], object]:
    """Return a step in which each module of the last block is compiled, and only in this step."""
    assert suffix.anatomy is not None
    modules = [model.get_submodule(name) for name in suffix.anatomy.blocks[-1]]
    for module in modules:
        module.compile()
    kept = [module._compiled_call_impl for module in modules]

    def switch(on: bool) -> None:
        for module, call in zip(modules, kept, strict=True):
            module._compiled_call_impl = call if on else None

    def compiled() -> None:
        switch(True)
        step()
        switch(False)

    switch(False)
    return compiled


def freeze_batch_norms(model: nn.Module) -> None:
    """Keep what is frozen in eval mode, as training does."""
    for module in model.modules():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()


def in_turns(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the best seconds of each way, all of them taken in turns; a way that gives seconds is believed."""
    for compute in ways.values():
        compute()
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, compute in ways.items():
            began = time.perf_counter()
            own = compute()
            times[way].append(own if isinstance(own, float) else time.perf_counter() - began)
    return {way: min(seconds) for way, seconds in times.items()}


def _matrix() -> Callable[[], object]:
    matrix = torch.randn(_SIDE, _SIDE)
    return lambda: matrix @ matrix


def _gflop(compute: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops()) / 1e9


def measure_pages(name: str) -> dict[str, float]:
    """Measure page faults and milliseconds per image of the prefix, with the thresholds as the environment says."""
    keep_freed_memory()
    _, prefix, _, pixels = split(name, fill_batch(torch.device("cpu")))
    size, repeats, best = len(pixels["pixel_values"]), 6, float("inf")
    for _ in range(3):
        prefix.capture(pixels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        began = time.perf_counter()
        prefix.capture(pixels)
        best = min(best, time.perf_counter() - began)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"faults": faults / repeats / size, "milliseconds": best / size * 1e3}


def allocator(name: str) -> dict[str, dict[str, float]]:
    """Measure the prefix in PyTorch with the allocator as it is and with hfft's thresholds, twice each in turns."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(2):
        for way, switch in (("off", "0"), ("on", "1")):
            command = [sys.executable, __file__, "--pages", name]
            out = subprocess.run(command, env={**os.environ, MEMORY_SWITCH: switch}, check=True, capture_output=True)  # noqa: S603
            now = json.loads(out.stdout.splitlines()[-1])
            best = min((found.get(way, now), now), key=lambda each: each["milliseconds"])
            found[way] = best
    return found


def prefix_table(results: list[Result]) -> str:
    """Return the prefix of all models in Markdown."""
    ways = list(dict.fromkeys(way for result in results for way in result.prefix))
    head = ["Frozen prefix, ms an image", "GFLOP", "limit", *ways, "best float32, share of the limit's rate"]
    rows = []
    for result in results:
        exact = [milliseconds for way, milliseconds in result.prefix.items() if "bf16" not in way]
        limit = result.prefix_gflop / result.rate * 1e3
        cells = [TITLES[result.model], f"{result.prefix_gflop:.2f}", f"{limit:.1f}"]
        cells += [f"{result.prefix[way]:.1f}" if way in result.prefix else "" for way in ways]
        rows.append([*cells, f"{result.share(result.prefix_gflop, min(exact)):.0%}"])
    return _markdown(head, rows)


def suffix_table(results: list[Result]) -> str:
    """Return the suffix of all models in Markdown."""
    ways = list(dict.fromkeys(way for result in results for way in result.suffix))
    head = ["Training step of the suffix, ms an image", "GFLOP", "limit", *ways, "float32, share of the limit's rate"]
    rows = []
    for result in results:
        limit = result.suffix_gflop / result.rate * 1e3
        cells = [TITLES[result.model], f"{result.suffix_gflop:.2f}", f"{limit:.1f}"]
        cells += [f"{result.suffix[way]:.2f}" if way in result.suffix else "" for way in ways]
        rows.append([*cells, f"{result.share(result.suffix_gflop, result.suffix['float32']):.0%}"])
    return _markdown(head, rows)


def pages_table(pages: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return what the allocator's thresholds do in Markdown."""
    head = ["Prefix in PyTorch", "page faults an image, before", "after", "ms an image, before", "after", "ratio"]
    rows = []
    for name, found in pages.items():
        off, on = found["off"], found["on"]
        cells = [f"{each['faults']:.0f}" for each in (off, on)]
        cells += [f"{each['milliseconds']:.1f}" for each in (off, on)]
        rows.append([TITLES[name], *cells, f"{off['milliseconds'] / on['milliseconds']:.2f}"])
    return _markdown(head, rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cpu() -> str:
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
