"""Write ``docs/benchmarks.md`` and the tables of other pages of ``docs`` from ``docs/measured``.

``--check`` compares.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from agent_tasks import table as tasks_table
from bench_export import table as export_table
from bench_limit import Result, pages_table, prefix_table, suffix_table
from bench_policies import table as policies_table
from bench_recipe import table as recipe_table
from bench_storage import table as storage_table
from bench_tasks import table as several_table
from bench_trust import table as trust_table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
EXPORT, AGENTS, TRUST = (ROOT / "docs" / f"{name}.md" for name in ("export", "agents", "trust"))
_TABLE = re.compile(r"(<!-- measured: [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]


def content(name: str) -> dict[str, Any]:
    """Return what one benchmark wrote."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "measured" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def measured(name: str) -> list[Row]:
    """Return the runs of one benchmark."""
    rows: list[Row] = content(name)["runs"]
    return rows


def limit_tables() -> str:
    """Return prefix, suffix and allocator beside the machine's own rate."""
    found = content("limit")
    results = [Result(**result) for result in found["results"]]
    return "\n\n".join([prefix_table(results), suffix_table(results), pages_table(found["allocator"])])


def table(header: str, rows: list[list[str]]) -> str:
    """Return a Markdown table; `header` is its first two lines."""
    return "\n".join([header, *(f"| {' | '.join(row)} |" for row in rows)])


def cache_table() -> str:
    """Return seconds with and without the activation cache."""
    rows = [
        [
            run["model"],
            run["policy"],
            f"{run['images']}, {run['epochs']}",
            *(f"{run[f'{what}_seconds']:.1f}" for what in ("plain", "empty", "filled", "floor")),
            *(f"{run['plain_seconds'] / run[f'{what}_seconds']:.1f}x" for what in ("empty", "filled")),
            f"{run['cache_mb']:.1f}",
            f"{run['peak_memory_gb']:.2f}",
        ]
        for run in measured("cache")
    ]
    header = (
        "| Model | Policy | Images, epochs | Plain, s | hfft empty, s | hfft filled, s | Floor, s | Empty | Filled | "
        "Cache, MB | Peak memory, GB |\n"
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    return table(header, rows)


def peers_table(name: str) -> str:
    """Return accuracy and seconds beside what one could take instead."""
    rows = [
        [
            run["name"],
            f"{run['mean']:.3f} ({run['low']:.3f} to {run['high']:.3f})",
            f"{run['seconds']:.1f}",
            f"{run['seconds'] / run['hfft_seconds']:.1f}x",
        ]
        for run in measured(name)
    ]
    return table("| | Accuracy, mean (range) | Seconds, median | Against hfft |\n| --- | --- | ---: | ---: |", rows)


def _seeds(name: str) -> str:
    """Say over how many seeds a benchmark was run."""
    count = content(name)["conditions"]["seeds"]
    return "one seed" if count == 1 else f"{count} seeds"


def delta_table() -> str:
    """Return the size of each policy's delta beside that of the checkpoint."""
    rows = [
        [
            f"`{run['policy']}`",
            f"{run['delta_mb']:.2f} MB",
            f"{run['checkpoint_mb']:.2f} MB",
            f"{run['delta_mb'] / run['checkpoint_mb']:.1%}",
        ]
        for run in measured("delta")
    ]
    return table("| Policy | Delta | Checkpoint | Share |\n| --- | ---: | ---: | ---: |", rows)


def page() -> str:
    """Return the whole page."""
    return f"""# Benchmarks

`python scripts/benchmarks.py` writes this page from `docs/measured/`; CI checks that it is current. Unless a table says
otherwise: two cores of an AMD EPYC, float32, no GPU. Other jobs shared the cores at times, so ratios within a table say
more than seconds.

## Policies

The embedded default at 96 pixels, 5 epochs, three seeds, with an empty cache (`scripts/bench_policies.py`; the default
learning rate, ten times as much for `norm` and `bias`; `attention` needs a transformer). Seconds are those of whole
runs. Retraining a block or two is as good here as retraining everything, in a fraction of the time.

{policies_table(measured("policies"))}

## Small sets

The embedded default at {content("recipe")["conditions"]["image_size"]} pixels on sets that packages carry, accuracy on
held-out test images (`scripts/bench_recipe.py`). `5 epochs` is what the default was: `--num_train_epochs 5` in batches
of 32. Intervals are Newcombe's, of the test images of all seeds as one sample, so they leave out what other training
images would change, which is much at five of a class; each seed draws its training images anew. The script goes on
where its file ends, and knows more sets and ways.

{recipe_table(measured("recipe"))}

## Never computing the frozen part twice

Seconds with an evaluation after each epoch, on generated JPEGs of 500x375 (half as many for validation as for
training), batches of 32 (`scripts/bench_cache.py`). Plain is `transformers.Trainer` with the same frozen set; the floor
is a bare PyTorch loop over the same suffix with its activations in memory.

{cache_table()}

## Beside the machine's limit

Random weights at 224 pixels, `last_block`, batches of 8 for the prefix, one in each lane at once, and of 32 for the
suffix (`scripts/bench_limit.py`). The limit is what the counted operations take at the rate of a 1024 x 1024 matrix
product, measured in the same run. PyTorch counts the backward of grouped convolutions as that of dense ones, so
suffixes that hold them seem faster than the limit. `--prefix_engine auto` races the engines that are installed on the
first images, and takes the fastest whose activations stay within `--engine_tolerance` of PyTorch's; `--bf16` is off by
default. The last table is what the allocator's thresholds do, which hfft sets for itself
(`HFFT_KEEP_FREED_MEMORY=0` leaves them alone).

{limit_tables()}

## Narrower activations

`--cache_dtype` on the embedded default at 96 pixels, 5 epochs, two seeds, cache in memory
(`scripts/bench_storage.py`). Differences are against float32 with the same seed.

{storage_table(measured("storage"))}

## Beside what one could take instead

The embedded default at 96 pixels, 5 epochs, three seeds, validation images (`scripts/bench_peers.py`). The last line is
of another run, in which hfft took 7.6 s.

{peers_table("peers")}

At 224 pixels, in one sitting, {_seeds("peers_224")}:

{peers_table("peers_224")}

## Several labels

Images of one to three animals each at {content("tasks")["conditions"]["image_size"]} pixels,
{content("tasks")["conditions"]["images"]} for training and half as many for validation and test,
{content("tasks")["conditions"]["epochs"]} epochs with the same parameters frozen and the same learning rate, which hfft
multiplies by five for the new head, {_seeds("tasks")} (`scripts/bench_tasks.py`); mean average precision on the test
images. Other jobs shared the cores, which lengthens seconds, but not those of the CPU.

{several_table(measured("tasks"))}

## The delta

`delta.safetensors` on the embedded EfficientNet-Lite0 (`scripts/table_delta.py`).

{delta_table()}
"""


def filled(file: Path, table: str) -> str:
    """Return a page with its table as it was measured."""
    return _TABLE.sub(lambda found: f"{found[1]}{table}\n{found[2]}", file.read_text(encoding="utf-8"))


def pages() -> dict[Path, str]:
    """Return the text of each page that holds what was measured."""
    tables = {
        EXPORT: export_table(measured("export")),
        AGENTS: tasks_table(measured("agents")),
        TRUST: trust_table(measured("trust")),
    }
    return {PAGE: page(), **{file: filled(file, table) for file, table in tables.items()}}


def main() -> int:
    """Write the pages, or with ``--check`` return 1 where one is not current."""
    stale = 0
    for file, text in pages().items():
        if "--check" not in sys.argv[1:]:
            file.write_text(text, encoding="utf-8")
            continue
        current = file.exists() and file.read_text(encoding="utf-8") == text
        print(f"{file.name} is {'current' if current else 'not current: run python scripts/benchmarks.py'}")
        stale += not current
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
