"""The command line: argv in, one call, one exit code; one module for each group of commands."""

from hfft.cli.dispatch import main

__all__ = ["main"]
