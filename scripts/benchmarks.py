"""Write the tables of pages in ``docs`` from ``docs/measured``, between marks with a name of `TABLES`.

``--check`` compares.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_tasks import table as agents_table
from bench_export import table as export_table
from bench_gpu import table as gpu_table
from bench_limit import Result, pages_table, prefix_table, suffix_table
from bench_peers import table as peers_table
from bench_policies import table as policies_table
from bench_recipe import augmentation_table
from bench_recipe import table as recipe_table
from bench_storage import table as storage_table
from bench_tasks import table as several_table
from bench_trust import table as trust_table
from table_delta import table as delta_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("benchmarks", "engines", "recipe", "export", "agents", "trust")]
_TABLE = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

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


def _seeds(name: str) -> str:
    """Say over how many seeds a benchmark was run."""
    count = content(name)["conditions"]["seeds"]
    return "one seed" if count == 1 else f"{count} seeds"


def recipe_tables() -> str:
    """Return accuracies on small sets, and what they are of."""
    size = content("recipe")["conditions"]["image_size"]
    return f"At {size} pixels, accuracy on held-out test images:\n\n{recipe_table(measured('recipe'))}"


def later_peers_table() -> str:
    """Return the same at 224 pixels."""
    return f"At 224 pixels, in one sitting, {_seeds('peers_224')}:\n\n{peers_table(measured('peers_224'))}"


def tasks_tables() -> str:
    """Return average precisions of several labels, and what they are of."""
    found = content("tasks")["conditions"]
    return (
        f"At {found['image_size']} pixels, {found['images']} images for training and half as many for validation and "
        f"test, {found['epochs']} epochs, {_seeds('tasks')}:\n\n{several_table(measured('tasks'))}"
    )


TABLES: dict[str, Callable[[], str]] = {
    "policies": lambda: policies_table(measured("policies")),
    "recipe": recipe_tables,
    "recipe_peers": lambda: recipe_table(measured("recipe_peers")),
    "recipe_tuned": lambda: recipe_table(measured("recipe_tuned")),
    "recipe_search": lambda: recipe_table(measured("recipe_search")),
    "augmentation": lambda: augmentation_table(measured("augmentation")),
    "bf16": lambda: recipe_table(measured("bf16")),
    "draft": lambda: recipe_table(measured("draft")),
    "cache": cache_table,
    "limit": limit_tables,
    "gpu": lambda: gpu_table(measured("gpu")),
    "storage": lambda: storage_table(measured("storage")),
    "peers": lambda: peers_table(measured("peers")),
    "peers_224": later_peers_table,
    "tasks": tasks_tables,
    "delta": lambda: delta_table(measured("delta")),
    "export": lambda: export_table(measured("export")),
    "agents": lambda: agents_table(measured("agents")),
    "trust": lambda: trust_table(measured("trust")),
}
"""What stands between the marks of each name."""


def filled(page: Path) -> str:
    """Return a page with its tables as they were measured."""
    text = page.read_text(encoding="utf-8")
    return _TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def pages() -> dict[Path, str]:
    """Return the text of each page that holds what was measured."""
    return {page: filled(page) for page in PAGES}


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
