"""Push a finished run to the Hub in one commit, and say how to repeat it where that fails."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from transformers.dynamic_module_utils import get_relative_import_files

from hfft._version import __version__
from hfft.demo import EMBEDDED_MODEL
from hfft.errors import HfftError, HubError, OutputError, one_line
from hfft.hub.local_paths import LocalPaths
from hfft.models.adapters import CONFIG, TENSORS
from hfft.models.delta import has_delta
from hfft.models.download import DELTA, has_weights
from hfft.output_folder import ADAPTER, KNOWN, RECORD, WEIGHTS
from hfft.report.card import model_card
from hfft.report.record import read_record
from hfft.report.trace import read_trace

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, SpaceInfo

    from hfft.arguments import FinetuneArguments


CARD = "README.md"
CONFIGS = ("config.json", "preprocessor_config.json")
PUBLISHED_FILES = (*CONFIGS, RECORD, "trace.csv", KNOWN)
_LOADED = (*WEIGHTS, DELTA, f"{ADAPTER}/*", KNOWN)
"""What a repository is loaded from; of an earlier run, it would be read beside the files of this one."""
_FIGURE = re.compile(r"!\[[^\]]*\]\(([\w.-]+)\)")  # a figure beside the card, as Markdown shows it


@dataclass(frozen=True)
class Target:
    """Where to push, and how.

    Args:
        repo_id: ``owner/name``; without an owner, the token's user is it.
        private: make the repository private where it is new; refuse one that is public.
        delta_only: leave out the whole checkpoint.
        token: access token; by default the one that ``hf auth login`` stored.
    """

    repo_id: str
    private: bool = False
    delta_only: bool = False
    token: str | None = None


def target_of(training: FinetuneArguments, token: str | None) -> Target:
    """Read the Trainer's own ``hub_`` options; without ``--hub_model_id`` the output folder's name is the id."""
    name = training.hub_model_id or Path(training.output_dir or "").resolve().name
    return Target(name, bool(training.hub_private_repo), token=training.hub_token or token)


def open_repo(target: Target, space: bool = False) -> Target:
    """Make sure that the token may write to the repository, which is made where it is missing.

    Args:
        target: as the user gave it.
        space: a Gradio Space in place of a model.

    Returns:
        The target with the owner in its id.

    Raises:
        HubError: there is no valid token, it may not write there, or the Hub cannot be reached.
    """
    api = HfApi(token=target.token)
    kind = "space" if space else "model"
    try:
        user = api.whoami()
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise HubError(
                f"the token of {user['name']} may only read; make one with the role write, pass it as --token"
            )
        repo_id = target.repo_id if "/" in target.repo_id else f"{user['name']}/{target.repo_id}"
        sdk = "gradio" if space else None
        api.create_repo(repo_id, private=target.private or None, exist_ok=True, repo_type=kind, space_sdk=sdk)
        api.auth_check(repo_id, repo_type=kind, write=True)
        info: ModelInfo | SpaceInfo = api.repo_info(repo_id, repo_type=kind)  # type: ignore[assignment]
    except HubError:
        raise
    except Exception as error:  # the client raises its own types, its transport's, OSError and ValueError
        raise HubError(reason_of(error, target.repo_id)) from error
    if target.private and not info.private:
        raise HubError(f"{repo_id} is there already and public; make it private on its page, or choose another id")
    stale = [file.rfilename for file in info.siblings or [] if file.rfilename in WEIGHTS]
    if target.delta_only and stale:
        raise HubError(f"{repo_id} holds {stale[0]}, which a delta alone would contradict; push without --delta_only")
    return replace(target, repo_id=repo_id)


@dataclass(frozen=True)
class Pushed:
    """What was pushed.

    Args:
        url: of the repository.
        deleted: files of an earlier run that were there, and would be read beside the new ones.
    """

    url: str
    deleted: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say it in a line."""
        gone = f"; deleted there, as of an earlier run: {', '.join(self.deleted)}" if self.deleted else ""
        return f"Pushed to {self.url}{gone}."


def push(output: str | Path, target: Target) -> Pushed:
    """Push a finished run in one commit: checkpoint, delta, card, figures and record.

    Files that the repository has already are not uploaded again, nor those that an earlier attempt uploaded. Weights,
    adapters and known images of an earlier run are deleted where this one does not replace them.

    Args:
        output: the run's output folder.
        target: where to, as `open_repo` returned it.

    Returns:
        The repository's address, and what was deleted.

    Raises:
        OutputError: the folder does not hold a finished run.
        HubError: the upload fails; it names the command that repeats it.
    """
    folder = Path(output)
    files = collect(folder, target)
    additions = [CommitOperationAdd(name, content) for name, content in files.items()]
    api = HfApi(token=target.token)
    try:
        there = set(api.list_repo_files(target.repo_id)) - set(files)
        stale = sorted(name for name in there if any(fnmatch(name, pattern) for pattern in _LOADED))
        commit = api.create_commit(
            target.repo_id,
            [*additions, *map(CommitOperationDelete, stale)],
            commit_message=f"Upload a model fine-tuned with hfft {__version__}",
            commit_description=f"Deleted, as of an earlier run: {', '.join(stale)}" if stale else None,
        )
    except Exception as error:  # the client raises its own types, its transport's, OSError and RuntimeError
        raise HubError(
            f"{reason_of(error, target.repo_id)}. Nothing is lost: {folder} holds all of it; "
            f"repeat with: {repeat_command(folder, target)}"
        ) from error
    return Pushed(str(commit.repo_url), tuple(stale))


def collect(folder: Path, target: Target) -> dict[str, Path | bytes]:
    """List what is pushed: by name in the repository, a file or its content, without local paths.

    Raises:
        OutputError: the folder does not hold a finished run, or lacks code that its model needs.
    """
    if not (folder / RECORD).exists() or not (folder / "config.json").exists():
        raise OutputError(f"{folder} does not hold a finished run; give the --output_dir of hfft finetune")
    weights = [] if target.delta_only else sorted(file.name for name in WEIGHTS for file in folder.glob(name))
    if not target.delta_only and not has_weights(folder):
        raise OutputError(
            f"{folder} does not hold model.safetensors; push its delta with --delta_only, or hfft merge it first"
        )
    if target.delta_only and not has_delta(folder):
        raise OutputError(f"{folder} does not hold {DELTA}; push the whole checkpoint, without --delta_only")
    card = card_for(folder, target) if (folder / CARD).exists() else ""
    names = [*weights, *_deltas(folder, target), *PUBLISHED_FILES, *_code(folder), *_FIGURE.findall(card)]
    paths = LocalPaths(asdict(read_record(folder / RECORD)))
    found = {name: _published(folder / name, paths) for name in names if (folder / name).exists()}
    return found | ({CARD: paths.without(card).encode()} if card else {})


def needed_beside(folder: Path, target: Target) -> str:
    """Say what whoever loads a delta alone has to have; nothing where the Hub or hfft's own packages hold its base."""
    base = read_record(folder / RECORD).base
    if not target.delta_only or base.on_hub or base.id == EMBEDDED_MODEL:
        return ""
    return (
        f"Its base, {Path(base.id).name}, is not on the Hub: whoever loads this delta needs that folder "
        f"(hfft merge {target.repo_id} --base PLACE); without --delta_only all weights are pushed."
    )


def _deltas(folder: Path, target: Target) -> list[str]:
    """Return the files of a delta; of two that say the same, the larger goes only beside whole weights."""
    adapter = [f"{ADAPTER}/{name}" for name in (CONFIG, TENSORS)] if (folder / ADAPTER).is_dir() else []
    return adapter if target.delta_only and adapter else [DELTA, *adapter]


def _code(folder: Path) -> list[str]:
    """Return the Python files that the model or its processor is loaded by, with what they import of the folder."""
    found: set[Path] = set()
    for config in CONFIGS:
        data = json.loads((folder / config).read_text(encoding="utf-8")) if (folder / config).exists() else {}
        given = (data.get("auto_map") or {}).values()
        # A processor may be named twice: slow and fast, one of which may be missing.
        for place in [each for entry in given for each in (entry if isinstance(entry, list) else [entry])]:
            if place is None or "--" in place:  # in a repository of its own
                continue
            module = folder / f"{place.partition('.')[0]}.py"
            try:
                found |= {module, *map(Path, get_relative_import_files(module))}
            except FileNotFoundError as error:
                raise OutputError(
                    f"{folder} lacks {Path(error.filename).name}, without which its model cannot be loaded "
                    f"({config} names it); copy the file from the base model"
                ) from error
    return sorted(file.relative_to(folder).as_posix() for file in found)


def _published(file: Path, paths: LocalPaths) -> Path | bytes:
    """A file as it goes to the Hub: what may name local paths is sent without them."""
    if file.name in (DELTA, TENSORS):
        return paths.delta(file)
    if file.name == KNOWN:
        return paths.known(file)
    return paths.json(file.read_text(encoding="utf-8")).encode() if file.suffix == ".json" else file


def card_for(folder: Path, target: Target) -> str:
    """The run's card, with its examples loading the repository; one that was edited stays as it is."""
    record, text = read_record(folder / RECORD), (folder / CARD).read_text(encoding="utf-8")
    figures = _FIGURE.findall(text)
    try:
        rows = read_trace(folder / "trace.csv")
    except HfftError:  # edited too, so that the card cannot be made again
        return text
    trained_in = str(Path(record.arguments.get("output_dir") or folder))
    if text != str(model_card(record, rows, trained_in, figures)):
        return text
    return str(model_card(record, rows, target.repo_id, figures, target.delta_only))


def repeat_command(folder: Path, target: Target) -> str:
    """The command that pushes the folder again; the token is left out."""
    flags = ["--delta_only"] * target.delta_only + ["--private"] * target.private
    return shlex.join(["hfft", "push", str(folder), "--repo_id", target.repo_id, *flags])


def reason_of(error: Exception, repo_id: str) -> str:
    """Say in one line why the Hub did not do what it was asked, and what helps."""
    if isinstance(error, HfftError):
        return str(error)
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token for the Hub; run `hf auth login`, set HF_TOKEN, or pass --token"
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub is switched off by HF_HUB_OFFLINE; unset it to push"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    known = {
        401: "the Hub does not accept the token; run `hf auth login` again, or pass another --token",
        403: f"the token may not write to {repo_id}; use one with the role write, or an id of your own",
        404: f"the Hub has no {repo_id} that the token may see; check --repo_id",
        409: f"the Hub reports a conflict on {repo_id}: somebody else writes to it right now",
    }
    if status in known:
        return known[status]
    what = f"the Hub answered {status}" if status else "the connection to the Hub failed"
    return f"{what} ({one_line(cause or error)[:200]})"
