"""Tests that list what a package has hold for the version whose list they are; hfft runs with older ones as well."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version


def needs(package: str, least: str) -> pytest.MarkDecorator:
    """Skip a test where an older version of a package is installed."""
    found = version(package)
    return pytest.mark.skipif(Version(found) < Version(least), reason=f"lists {package} {least}; here is {found}")


OLD_RESIZE = Version(version("torchvision")) < Version("0.29")
"""Whether torchvision may round resized pixels otherwise than the version that bounds were chosen with."""

NUMBERS: dict[str, str] = {"function_to_apply": "none"} if Version(version("transformers")) < Version("5.23") else {}
"""What a stock pipeline must be told of a regression model before transformers 5.23, which made probabilities of it."""
