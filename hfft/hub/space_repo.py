"""Build the folder of a Gradio Space for a model, and push it to the Hub."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, requires, version
from importlib.util import find_spec
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import yaml
from huggingface_hub import HfApi
from packaging.requirements import Requirement
from packaging.version import Version

from hfft import _version
from hfft._version import __version__
from hfft.errors import HubError, OutputError
from hfft.hub.push import Target, open_repo, reason_of

APP = "space_app.py"
VARIABLE = "HFFT_MODEL"
_OURS = ["hfft/*", "hfft_plugins/*", "hfft-*.dist-info/*"]  # what an update may delete from the Space
_APP_TEXT = '''"""Serve the Space: ``uv run python space_app.py [FLAGS]``; the page is ``hfft/space/tabs/page.py``."""

import sys

from hfft.cli import main

if __name__ == "__main__":
    sys.exit(main(["space", *sys.argv[1:]]))
'''
_TEXT = """
# {title}

Label images with [{model}](https://huggingface.co/{model}), and look inside the model while it does.
Built by hfft {version}: `hfft push OUTPUT --repo_id {model} --space`.

The variable `{variable}` in the settings says which model is served. For a private model, add a token that may
read it as the secret `HF_TOKEN`.
"""


def push_space(target: Target, model: str) -> str:
    """Create or update the Space of a model.

    Args:
        target: the Space's id, and who may see it.
        model: the model's repository on the Hub.

    Returns:
        The Space's address.

    Raises:
        HubError: the token may not write there, or the upload fails.
        OutputError: a package that the app needs is not installed.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = build_space(Path(place) / "space", model)
        target = open_repo(target, space=True)
        api = HfApi(token=target.token)
        try:
            commit = api.upload_folder(
                repo_id=target.repo_id,
                repo_type="space",
                folder_path=folder,
                delete_patterns=_OURS,
                commit_message=f"Update the Space with hfft {__version__}",
            )
            api.add_space_variable(target.repo_id, VARIABLE, model)
        except Exception as error:  # the client raises its own types, its transport's, OSError and RuntimeError
            raise HubError(
                f"{reason_of(error, target.repo_id)}; the Space is unfinished, run the same again"
            ) from error
    return str(commit.repo_url)


def build_space(folder: Path, model: str) -> Path:
    """Write everything that a Space needs into a new folder.

    Args:
        folder: where to; it must not exist.
        model: the model's repository on the Hub, for the page that describes the Space.

    Raises:
        OutputError: a package that the app needs is not installed.
    """
    package = Path(_version.__file__).parent
    folder.mkdir(parents=True)
    (folder / APP).write_text(_APP_TEXT, encoding="utf-8")
    _copy_package(package, folder / "hfft")
    for name, place in _plugin_packages().items():
        _copy_package(place, folder / name)
    _write_metadata(folder)
    (folder / "requirements.txt").write_text("\n".join(pinned_requirements()) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(model), encoding="utf-8")
    return folder


def pinned_requirements() -> list[str]:
    """List what hfft and its Space need, each in the version that is installed here.

    Raises:
        OutputError: one of them is not installed.
    """
    return sorted(set(_pinned()))


def _pinned() -> Iterator[str]:
    for text in requires("hfft") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": "space"}):
            continue
        try:
            # Without a local part (+cpu and the like), which an index may not have.
            yield f"{requirement.name}=={Version(version(requirement.name)).public}"
        except PackageNotFoundError as error:
            raise OutputError(f'a Space needs {requirement.name}: pip install "hfft[space]"') from error


def _own_points() -> list[EntryPoint]:
    """The entry points of hfft itself: plugins and policies."""
    return [point for point in distribution("hfft").entry_points if point.group.startswith("hfft.")]


def _plugin_packages() -> dict[str, Path]:
    """The packages that hfft's own entry points name, found without importing them."""
    names = {point.module.partition(".")[0] for point in _own_points()} - {"hfft"}
    specs = {name: find_spec(name) for name in names}
    return {name: Path(next(iter(spec.submodule_search_locations or ()))) for name, spec in specs.items() if spec}


def _copy_package(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyi"))


def _write_metadata(folder: Path) -> None:
    """Make plugins and policies known: a Space installs no hfft, and entry points are found through this folder."""
    info = folder / f"hfft-{__version__}.dist-info"
    info.mkdir()
    lines: list[str] = []
    for group, points in groupby(sorted(_own_points(), key=attrgetter("group")), key=attrgetter("group")):
        lines += [f"[{group}]", *(f"{point.name} = {point.value}" for point in points), ""]
    header = f"Metadata-Version: 2.1\nName: hfft\nVersion: {__version__}\n"
    (info / "METADATA").write_text(header, encoding="utf-8")
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def _readme(model: str) -> str:
    title = model.rpartition("/")[2]
    front = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": ".".join(platform.python_version_tuple()[:2]),  # of the pinned versions; else the Hub's own
        "app_file": APP,
        "license": "apache-2.0",
        "models": [model],
        "pinned": False,
    }
    text = _TEXT.format(title=title, model=model, version=__version__, variable=VARIABLE)
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{text}"
