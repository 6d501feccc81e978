"""`hfft check`: findings as a table for people and as data for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hfft.arguments import CheckArguments, DataArguments
from hfft.bars import bar
from hfft.cli.commands import summary_of
from hfft.cli.reply import Reply
from hfft.errors import ArgumentError
from hfft.parsing import parse
from hfft.wording import images_of

if TYPE_CHECKING:
    from hfft.data.check import Finding
    from hfft.data.load import Found
    from hfft.data.probe import ImageProbe


def run_check(data: DataArguments, options: CheckArguments, place: str | None) -> Reply:
    """Check every image and say what is found; progress goes to standard error.

    Args:
        data: which images, where `place` does not say.
        options: what fails.
        place: whatever ``hfft check DATA`` was given, or None.

    Returns:
        All findings; the exit code is 1 where there are errors (with ``--strict`` warnings as well), else 0.

    Raises:
        DataError: there are no images, or their labels cannot be told.
    """
    if place is not None:
        if data.train_dir or data.dataset_name:
            raise ArgumentError("give the images once: as DATA, or by --train_dir or --dataset_name")
        data.dataset_name = place
    from hfft.data.check import check_parts, named_parts
    from hfft.data.load import find_splits

    found = find_splits(data)
    findings = check_parts(named_parts(found.splits, data), _progress)
    failing = {"error", "warning"} if options.strict else {"error"}
    code = int(any(finding.severity in failing for finding in findings))
    return Reply(findings_data(found, findings), findings_table(found, findings), code)


def findings_data(found: Found, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return all findings with all their files."""
    return {
        "data": found.name,
        "images": {split: len(named.names) for split, named in found.splits.items()},
        "notes": found.notes,
        "findings": list(findings),
    }


def findings_table(found: Found, findings: Sequence[Finding]) -> str:
    """Return the findings, the worst first, each with a few of its files."""
    from hfft.data.check import SHOWN_FILES, joined_files

    images = images_of({split: len(named.names) for split, named in found.splits.items()})
    lines = [f"{found.name}: {images}", *found.notes]
    if not findings:
        lines.append("nothing found: every image can be read, no two are alike")
    for finding in findings:
        lines.append(f"{finding.severity:<8} {finding.what}")
        shown = [joined_files(group) for group in finding.groups] or list(finding.files)
        lines += [f"{'':<8}   {text}" for text in shown[:SHOWN_FILES]]
        if len(shown) > SHOWN_FILES:
            lines.append(f"{'':<8}   and {len(shown) - SHOWN_FILES:,} more; --json names all")
    return "\n".join(lines)


def _progress(probes: Iterable[ImageProbe], total: int) -> Iterable[ImageProbe]:
    return bar(probes, desc="Check", total=total, unit="image")


def check_command(argv: list[str]) -> Reply:
    """Look for unreadable, equal, mislabelled and unusual images before they are trained on."""
    place = {"nargs": "?", "metavar": "DATA", "help": "Folder, file or Hub id. Left out: what the flags say."}
    groups = (DataArguments, CheckArguments)
    return run_check(*parse(groups, argv, "check", summary_of("check"), place))
