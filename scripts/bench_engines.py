"""What `--prefix_engine auto` chooses for each architecture, and whether it is ever slower than PyTorch.

``python scripts/bench_engines.py [--rows 100000] [--types vit resnet ...] [--json FILE]``
Each of transformers' image classifiers is built small and seeded, as the tests build it, and cut for ``last_block``.
The choice is made as for a set of that many images; then what was chosen and PyTorch compute the same batch in turns.
Small models differ from large ones in how much an engine can save, so the ratio says that nothing is lost, not how much
is won: `scripts/bench_limit.py` says that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from bench_limit import in_turns
from torch import Tensor

from hfft.arguments import CacheArguments
from hfft.cache.engines import Question, choose_engine
from hfft.cache.fill import fill_batch
from hfft.errors import HfftError
from hfft.planning.freezing import freeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import find_anatomy
from hfft.split.cut import cut_phase
from hfft.split.halves import Prefix

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from small_models import SMALL, small_model

CPU = torch.device("cpu")


@dataclass
class Choice:
    """What was chosen for one architecture.

    Args:
        name: its model type.
        engine: what computes its prefix.
        torch: milliseconds an image of PyTorch.
        chosen: the same of what was chosen; 0 where that is PyTorch.
        note: why nothing was measured.
    """

    name: str
    engine: str = "torch"
    torch: float = 0.0
    chosen: float = 0.0
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times as fast as PyTorch."""
        return self.torch / self.chosen if self.chosen else 1.0


def main() -> None:
    """Measure every architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="images that the set-up is weighed against")
    parser.add_argument("--types", nargs="+", choices=sorted(SMALL), default=sorted(SMALL))
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--json", type=Path, help="file for the measurements")
    options = parser.parse_args()
    choices = []
    for name in options.types:
        choices.append(measure(name, options.rows, options.turns))
        print(json.dumps(asdict(choices[-1])), flush=True)
    measured = [choice for choice in choices if choice.chosen]
    slowest = min(measured, key=lambda choice: choice.ratio, default=None)
    print(f"{len(measured)} of {len(choices)} take an engine" + (f"; least: {slowest}" if slowest else ""))
    if options.json:
        content = {"torch": torch.__version__, "rows": options.rows, "choices": [asdict(each) for each in choices]}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def measure(name: str, rows: int, turns: int) -> Choice:
    """Let `auto` choose for one architecture, and time the choice."""
    try:
        prefix, batch = prefix_of(name)
    except HfftError as error:
        return Choice(name, note=str(error))
    with tempfile.TemporaryDirectory() as folder:
        question = Question(prefix, name, lambda: batch, lambda: rows, CacheArguments(), Path(folder))
        found = choose_engine(question, 0, 1)
        if found.engine is None:
            return Choice(name, note=found.use.note)
        engine = found.engine
        with ThreadPoolExecutor(engine.lanes) as pool:
            ways: dict[str, Callable[[], object]] = {
                "torch": lambda: prefix.capture(batch),
                "chosen": lambda: list(pool.map(engine.capture, [batch] * engine.lanes)),
            }
            seconds = in_turns(ways, turns)
    images = len(next(iter(batch.values())))
    return Choice(
        name, found.use.label, seconds["torch"] / images * 1e3, seconds["chosen"] / images / engine.lanes * 1e3
    )


def prefix_of(name: str) -> tuple[Prefix, dict[str, Tensor]]:
    """Return the frozen prefix of a small model under `last_block`, with a batch of its inputs.

    Raises:
        HfftError: it cannot be fine-tuned block by block, or not be cut.
    """
    model, inputs = small_model(name)
    anatomy = find_anatomy(model)
    phase = make_plan(model, anatomy, "last_block", 1).phases[0]
    freeze(model, phase)
    cut = cut_phase(model, anatomy, phase, inputs)
    if cut.split is None:
        raise HfftError(f"not cached: {cut.uncached_reason}")
    size = fill_batch(CPU)
    batch = {key: value.repeat(size, *[1] * (value.ndim - 1))[:size] for key, value in inputs.items()}
    return Prefix(cut.split, anatomy, cut.class_token, CPU, None, torch.channels_last), batch


if __name__ == "__main__":
    main()
