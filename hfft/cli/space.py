"""`hfft space`: serve the page."""

from __future__ import annotations

from hfft.cli.commands import summary_of
from hfft.cli.reply import Reply
from hfft.parsing import parse


def space_command(argv: list[str]) -> Reply:
    """Open the Space: classify, look inside a run, fine-tune in the browser."""
    from hfft.space.options import SpaceArguments

    (options,) = parse((SpaceArguments,), argv, "space", summary_of("space"))
    from hfft.space.app import run_space

    return Reply(code=run_space(options))
