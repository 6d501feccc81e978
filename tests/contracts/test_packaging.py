"""The wheel: what it contains, what it declares, and that it runs where the sources are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tracked sources, with the build tools that are installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("hfft", "plugins", "scripts", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_top_level_is_hfft_and_hfft_plugins_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"hfft", "hfft_plugins"}
    assert {"hfft/py.typed", "hfft_plugins/py.typed", "hfft_plugins/timm.py", "hfft/arguments/training.json"} <= {
        *names
    }
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "hfft").rglob("*.py")}
    sources |= {str(path.relative_to(ROOT)) for path in (ROOT / "hfft" / "inference" / "export" / "page").iterdir()}
    assert sources <= set(names)


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        metadata = archive.read(f"{info}/METADATA").decode()
        points = archive.read(f"{info}/entry_points.txt").decode()
        assert any(name.startswith(f"{info}/licenses/") for name in archive.namelist())
    assert "License-Expression: Apache-2.0" in metadata
    assert "hfft = hfft.cli:main" in points
    assert "[hfft.backbones]" in points
    for extra in ("demo", "space"):
        assert f"Provides-Extra: {extra}" in metadata


def test_direct_dependencies_are_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(">=" in dependency and "<" in dependency for dependency in project["dependencies"])


@pytest.fixture
def run_installed(wheel: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """Run a program where hfft is installed without its sources in sight; the other packages are lent."""
    target = tmp_path / "venv"
    venv.create(target, with_pip=False)
    lent = target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(lent)
    # A path file of our own project would bring the sources back into sight, so only directories are lent.
    other = Path(next(path for path in sys.path if path.endswith("site-packages")))

    def run(program: str) -> list[str]:
        start = f"import sys; sys.path.append({str(other)!r})\nimport hfft; assert 'venv' in hfft.__file__\n"
        command = [str(target / "bin" / "python"), "-c", start + program]
        environment = {**os.environ, "PYTHONPATH": ""}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_runs_in_another_environment(run_installed: Callable[[str], list[str]]) -> None:
    printed = run_installed(
        "from hfft.plugin.installed import installed_plugins\n"
        "print(sorted({plugin.name for plugin in installed_plugins() if plugin.plugin}))\n"
    )
    assert {"cnn", "timm", "vit"} <= set(eval(printed[-1]))  # noqa: S307  (a list printed above)


def sources(folder: Path) -> set[Path]:
    """All files of the package, pages and scripts among them, without what Python and gradio write beside them."""
    files = (path for path in (folder / "hfft").rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyi"))
    return {path.relative_to(folder) for path in files}


@pytest.mark.processes
def test_a_space_is_built_from_the_wheel(run_installed: Callable[[str], list[str]], tmp_path: Path) -> None:
    run_installed(
        "from pathlib import Path\nfrom hfft.hub.space_repo import build_space\n"
        "build_space(Path('space'), 'me/model')\n"
    )
    space = tmp_path / "space"
    assert sources(space) == sources(ROOT)
    assert (space / "hfft_plugins" / "vit.py").is_file()
    points = next(space.glob("*.dist-info/entry_points.txt")).read_text()
    assert "vit = hfft_plugins.vit:ViT" in points
    assert "last_block = hfft.planning.policies:last_block" in points
    started = subprocess.run(
        [sys.executable, "space_app.py", "--help"], cwd=space, capture_output=True, text=True, check=True
    )
    assert "--max_upload_mb" in started.stdout
