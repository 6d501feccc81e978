"""From a path or a Hub id to a folder with a model's files; nothing that could hold a pickle is fetched."""

from __future__ import annotations

import os
import re
from pathlib import Path
from textwrap import shorten

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from hfft.errors import ModelError, one_line
from hfft.output_folder import ADAPTER, KNOWN, WEIGHTS

DELTA = "delta.safetensors"
_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")


def fetch(
    path_or_repo: str | Path, revision: str | None = None, token: str | None = None, trust_remote_code: bool = False
) -> Path:
    """Return the folder with a model's files, downloaded where it is on the Hub.

    The delta and adapters are fetched only where the repository has no whole checkpoint.

    Args:
        path_or_repo: a folder, or a repository's id on the Hub.
        revision: branch, tag or commit on the Hub.
        token: access token for the Hub; by default the one that ``hf auth login`` stored.
        trust_remote_code: fetch Python files as well.

    Raises:
        ModelError: there is neither such a folder nor such a repository, or the Hub cannot be reached.
    """
    if not isinstance(path_or_repo, str | os.PathLike):
        raise ModelError(f"{shorten(repr(path_or_repo), 60)} is neither a folder nor the name of a repository")
    if os.path.isdir(local := os.path.expanduser(path_or_repo)):  # unlike Path's, for names of any length and user
        return Path(local)
    if os.path.isfile(local):
        raise ModelError(f"{local} is a file; give its folder, {Path(local).parent}")
    if address := _ADDRESS.match(str(path_or_repo)):
        raise ModelError(f"{path_or_repo} is an address; give the name of its repository, {address[1]}")
    patterns = ["*.json", *WEIGHTS, KNOWN, *(["*.py"] if trust_remote_code else [])]
    folder = _download(str(path_or_repo), revision, token, patterns)
    if has_weights(folder):
        return folder
    return _download(str(path_or_repo), revision, token, [*patterns, DELTA, f"{ADAPTER}/*"])


def has_weights(folder: Path) -> bool:
    """Return whether a folder holds a whole checkpoint in safetensors files."""
    return any((folder / name).exists() for name in WEIGHTS[:2])


def _download(repo_id: str, revision: str | None, token: str | None, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ModelError(f"{repo_id} is gated: ask for access on its page, then pass --token") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{repo_id} has no revision {revision!r}; check --revision") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is neither a folder nor a Hub repository {repo_id}, or the token may not see it; check the name"
        ) from error
    except Exception as error:  # the client raises its own types, its transport's, OSError and ValueError
        raise ModelError(
            f"{repo_id!r} is not a folder, and cannot be fetched from the Hub: {one_line(error)}; "
            "check the path, or the connection"
        ) from error
