"""`hfft cache`: what lies on disk, and removing it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from hfft.arguments import CacheToolArguments
from hfft.cache.entries import Entry, list_entries, prune
from hfft.cache.placement import gigabytes
from hfft.cli.commands import summary_of
from hfft.files import default_cache_dir
from hfft.parsing import parse


def cache_tool(action: str, options: CacheToolArguments) -> str:
    """List or prune the entries of a cache folder and say what there is, or what was removed."""
    directory = Path(options.cache_dir) if options.cache_dir else default_cache_dir()
    if action == "prune":
        entries = prune(directory, int(options.keep_gb * 1e9))
        return f"Removed {len(entries)} entries of {gigabytes(sum(entry.bytes for entry in entries))} from {directory}."
    entries = list_entries(directory)
    total = f"{len(entries)} entries of {gigabytes(sum(entry.bytes for entry in entries))} in {directory}"
    return "\n".join([*(_line(entry) for entry in entries), total])


def _line(entry: Entry) -> str:
    used = datetime.fromtimestamp(entry.used).isoformat(sep=" ", timespec="minutes")
    return (
        f"{entry.folder.name}  {gigabytes(entry.bytes):>10}  {entry.rows:>8} rows  used {used}  before {entry.boundary}"
    )


def cache_command(argv: list[str]) -> int:
    """List the activation caches on disk, or prune them: hfft cache list|prune."""
    from hfft.arguments import CacheToolArguments

    action = {"choices": ["list", "prune"], "help": "list shows sizes; prune removes the least recently used."}
    options, what = parse((CacheToolArguments,), argv, "cache", summary_of("cache"), action)
    print(cache_tool(what, options))
    return 0
