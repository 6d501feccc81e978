"""`hfft cache`: the activation caches on disk, listed, pruned or filled."""

from __future__ import annotations

from datetime import datetime

from hfft.arguments import CacheToolArguments
from hfft.bars import loading, silenced
from hfft.cache.entries import Entry, list_entries, prune
from hfft.cache.placement import gigabytes
from hfft.cli.commands import summary_of
from hfft.cli.reply import Reply
from hfft.errors import ArgumentError
from hfft.files import cache_dir_of
from hfft.parsing import asks_for_help, parse, print_run_help

FILL_SUMMARY = "Compute the activations that hfft finetune with the same flags reads, or one part of them, and stop."


def cache_tool(action: str, options: CacheToolArguments) -> Reply:
    """List or prune the entries of a cache folder and say what there is, or what was removed."""
    directory = cache_dir_of(options.cache_dir)
    pruned = action == "prune"
    entries = prune(directory, int(options.keep_gb * 1e9)) if pruned else list_entries(directory)
    total = f"{len(entries)} entries of {gigabytes(sum(entry.bytes for entry in entries))}"
    result = {"cache_dir": directory, "removed" if pruned else "entries": entries}
    if pruned:
        return Reply(result, f"Removed {total} from {directory}.")
    return Reply(result, "\n".join([*(_line(entry) for entry in entries), f"{total} in {directory}"]))


def _line(entry: Entry) -> str:
    used = datetime.fromtimestamp(entry.used).isoformat(sep=" ", timespec="minutes")
    return (
        f"{entry.folder.name}  {gigabytes(entry.bytes):>10}  {entry.rows:>8} rows  used {used}  before {entry.boundary}"
    )


def cache_command(argv: list[str]) -> Reply:
    """List the activation caches on disk, prune them, or fill one without training: hfft cache list|prune|fill."""
    if argv[:1] == ["fill"]:
        return _fill(argv[1:])
    action = {
        "metavar": "ACTION",
        "choices": ["list", "prune", "fill"],
        "help": "list, prune or fill: list shows sizes; prune removes the least recently used; fill takes the flags of "
        "hfft finetune and --shard i/n.",
    }
    options, what = parse((CacheToolArguments,), argv, "cache", summary_of("cache"), action)
    if what == "fill":
        raise ArgumentError("fill comes first: hfft cache fill [FLAGS of hfft finetune] [--shard i/n]")
    return cache_tool(what, options)


def parse_shard(text: str) -> tuple[int, int]:
    """Turn ``i/n``, i from 1 to n, into (i - 1, n).

    Raises:
        ArgumentError: it is not of that form.
    """
    number, slash, count = text.partition("/")
    if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number) - 1, int(count)
    raise ArgumentError(f"--shard {text!r} is not of the form i/n, with i from 1 to n")


def _fill(argv: list[str]) -> Reply:
    """Compute one part of the activations that a run with these flags reads."""
    from hfft.arguments import FillArguments

    if asks_for_help(argv):
        print_run_help("cache fill", FILL_SUMMARY, FillArguments)
    with loading(argv):
        from hfft.arguments import RUN_ARGUMENTS

    *groups, part = parse((*RUN_ARGUMENTS, FillArguments), argv, "cache fill", FILL_SUMMARY)
    share = parse_shard(part.shard)
    from hfft.jobs.finetune import set_up
    from hfft.training.phases import fill_caches
    from hfft.training.setup import Settings

    settings = Settings(*groups)
    if settings.cache.cache not in ("auto", "disk"):
        raise ArgumentError(f"hfft cache fill writes to disk; leave out --cache {settings.cache.cache}")
    if settings.training.world_size > 1:
        raise ArgumentError("hfft cache fill takes no launcher: start one process for each --shard i/n")
    settings.cache.cache = "disk"
    with silenced(settings.training.disable_tqdm):
        fill_caches(set_up(settings), share, print)
    return Reply({"shard": part.shard})
