"""Installed packages, each asked once: their metadata take milliseconds to read."""

import functools
from importlib import metadata


@functools.cache
def version(package: str) -> str:
    """Return the version of a package.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return metadata.version(package)


@functools.cache
def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """Return what packages offer under the name of a group."""
    return tuple(metadata.entry_points(group=group))
