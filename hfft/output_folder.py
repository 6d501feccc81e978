"""Output folders: which files in them are hfft's own, and one run at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hfft.errors import OutputError
from hfft.files import cannot_write, refuse_unwritable, write_whole

RECORD, CONFIG = "hfft.json", "config.json"
KNOWN = "known_images.safetensors"
"""Of the training images that others are compared with; see `hfft.trust.known`."""
CLASSES = "class_statistics.safetensors"
"""What more images and classes are added to a run by; see `hfft.trust.classes`."""
IMAGES = "images.parquet"
"""The list of all images of a run that was extended; see `hfft.jobs.extension`."""
CODE = "modeling_backbone_classifier.py"
"""The code of a model that transformers has no class for; see `hfft.models.headless`."""
ADAPTER = "adapter"
"""Folder of low-rank adapters, as PEFT writes them; see `hfft.models.adapters`."""
EPOCH_ANSWERS = "predictions_by_epoch.safetensors"
"""What was said of the validation images at each epoch; see `hfft.trust.epoch_answers`."""
FEATURE_MAP = "feature_map.safetensors"
"""Images as points of a plane, before and after training; see `hfft.trust.feature_map`."""
CLAIMS = ".hfft-files"
"""Names, one a line, of what hfft wrote into a folder that holds no ``hfft.json`` to list them."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
RESULTS = (
    *(RECORD, CONFIG, "preprocessor_config.json", "README.md", "trace.csv", "predictions.csv"),
    *(*WEIGHTS, "delta.safetensors", KNOWN, CLASSES, IMAGES, CODE, EPOCH_ANSWERS, ADAPTER, FEATURE_MAP),
    *("curves.png", "confusion_matrix.png", "reliability.png", "mistakes.png", "feature_map.png"),
    "predicted_against_true.png",
    *("all_results.json", "train_results.json", "eval_results.json", "test_results.json", "trainer_state.json"),
)
"""What a run may leave in its folder."""
_LATER = (
    KNOWN,
    CLASSES,
    IMAGES,
    CODE,
    EPOCH_ANSWERS,
    ADAPTER,
    FEATURE_MAP,
    "feature_map.png",
    "predicted_against_true.png",
)
_BEFORE_LISTS = (*(name for name in RESULTS if name not in _LATER), "model.onnx")  # earlier records list nothing


def owned(folder: Path) -> set[str]:
    """Return the names that hfft gave to files of its own in a folder, whether or not they are still there."""
    return _recorded(folder) | _claimed(folder)


def claim(folder: Path, names: Iterable[str]) -> None:
    """Note, before they are written, that files are hfft's own: in ``hfft.json``, or beside where there is none.

    Raises:
        OSError: the note cannot be written.
    """
    names = set(names)
    if names <= owned(folder):
        return
    record = _record(folder)
    if record is not None:
        text = json.dumps(record | {"written": sorted(names | _recorded(folder))}, indent=2, ensure_ascii=False)
        _write(folder / RECORD, text)
    else:
        note(folder, names | _claimed(folder))


def note(folder: Path, names: Iterable[str]) -> None:
    """Note outside the record which files are hfft's own; it holds as long as the note is there.

    Raises:
        OSError: it cannot be written.
    """
    _write(folder / CLAIMS, "\n".join(sorted(set(names) - {CLAIMS})))


def discard(folder: Path) -> None:
    """Delete what hfft wrote into a folder, and the folder if nothing else is in it."""
    for name in owned(folder):
        remove(folder / name)
    with suppress(OSError):  # the user's own files are in it, or it is not there
        folder.rmdir()


def remove(path: Path) -> None:
    """Delete a file of hfft's own, or what hfft says it wrote into a folder of that name."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif (path / CLAIMS).exists():  # else the folder is the user's
        discard(path)


def foreign(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Return the names in a folder that match one of the patterns and are not hfft's own."""
    found = {path.name for pattern in patterns for path in folder.glob(pattern)}
    return sorted(found - owned(folder))


def refuse_foreign(folder: Path, names: Iterable[str], advice: str = "choose another --output_dir") -> None:
    """Make sure that writing files of these names replaces nothing but hfft's own.

    Raises:
        OutputError: naming what is in the way.
    """
    if found := foreign(folder, names):
        raise OutputError(f"{folder} holds {listed(found)}, not written by hfft; move what is yours, or {advice}")


def refuse_overlap(output: Path, places: Mapping[str, str | None]) -> None:
    """Make sure that an output folder and what a command reads do not lie within each other.

    Args:
        output: the folder; it need not exist.
        places: what is read, by the flag that names it; what is not on this machine is passed over.

    Raises:
        OutputError: naming the flag.
    """
    for flag, given in places.items():
        place = Path(given).expanduser() if given else None
        if place is None or not os.path.exists(place):  # unlike `Path.exists`, also of a name that is too long for one
            continue
        relation = "lies in" if _holds(place, output) else "holds" if _holds(output, place) else ""
        if relation:
            same = relation == "lies in" and _holds(output, place)
            raise OutputError(
                f"--output_dir {output} {'is' if same else relation} --{flag} {given}, which would be mixed with the "
                "results or overwritten; choose a folder of its own, such as outputs/run"
            )


def refuse_unnamable(path: Path, flag: str = "--output_dir") -> None:
    """Make sure that texts, as the record is one, can hold the name of what is written.

    Raises:
        OutputError: they cannot.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"{flag} {path}: its name is not UTF-8, which records are; choose another") from error


def listed(names: list[str]) -> str:
    """Name a few of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _holds(folder: Path, path: Path) -> bool:
    """Whether a path is a folder or lies within it, whatever links and capitals either is written with."""
    if not folder.exists():
        return False
    real = path.expanduser().resolve()
    return any(parent.exists() and os.path.samefile(parent, folder) for parent in (real, *real.parents))


def _record(folder: Path) -> dict[str, object] | None:
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):  # damaged: then it lists nothing
        return {}
    return data if isinstance(data, dict) else {}


def _recorded(folder: Path) -> set[str]:
    record = _record(folder)
    if record is None:
        return set()
    if isinstance(written := record.get("written"), list):
        return {RECORD, *(name for name in written if _is_name(name))}
    return {file.name for pattern in _BEFORE_LISTS for file in folder.glob(pattern)}


def _claimed(folder: Path) -> set[str]:
    try:
        names = (folder / CLAIMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return set()
    return {CLAIMS, *(name for name in names if _is_name(name))}


def _is_name(name: object) -> bool:
    """Whether it names a file in the folder itself, and none elsewhere."""
    return isinstance(name, str) and name not in ("", "..") and name == Path(name).name


def _write(path: Path, text: str) -> None:
    write_whole(path, f"{text}\n".encode())


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder, with those around it, and make sure that it can be written; what is empty in the end goes again.

    Raises:
        OutputError: it cannot be made or written.
    """
    refuse_unnamable(folder)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_unwritable(folder)
        except OSError as error:
            raise cannot_write(f"to --output_dir {folder}", error) from error
        yield
    finally:
        with suppress(OSError):  # something is in it
            for each in missing:
                each.rmdir()


LOCK = ".hfft.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of an existing folder within this context; the system lets go when the process dies.

    Raises:
        OutputError: another run is at work there, or the file system refuses.
    """
    path = folder / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)  # a file that the run before has removed is refused, by filelock itself since 3.21
    except Timeout as error:
        raise OutputError(
            f"another run is writing to {folder}; wait until it has ended, or choose another --output_dir"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"cannot lock {path}: {error}; choose another --output_dir") from error
    try:
        yield
    finally:
        with suppress(OSError):  # some systems do not remove what is open
            path.unlink(missing_ok=True)
        lock.release()
