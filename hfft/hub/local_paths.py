"""Local paths, taken out of what is published: whoever trained has folders that are nobody else's business."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hfft.errors import ModelError
from hfft.report.markdown import escape

_FOLDERS = ("train_dir", "validation_dir", "test_dir", "cache_dir", "output_dir")
_KEPT = 3
"""Names at the end of an image's path that are published: with class folders its set, its class and its own."""


class LocalPaths:
    """The local paths that a run's record names, and how to do without them.

    A path becomes its last name, and what lies below it stays: of ``/home/me/photos/cat/1.png``, with
    ``/home/me/photos`` in the record, ``photos/cat/1.png`` is left, as of any longer path of an image. The home folder
    becomes ``~``. Relative paths are those that lead upwards, the folders of images, of the cache and of the run, and
    a base or a data set that is not on the Hub.

    Args:
        record: the content of ``hfft.json``.
    """

    def __init__(self, record: Any) -> None:
        # Not all of the record: a label may look like a path, and must stay what it is.
        base, data, mistakes = record["base"], record["data"], record.get("mistakes", [])
        options = record.get("arguments", {})
        files = [*(data.get("skipped") or []), *(row["file"] for row in mistakes)]
        places = [options, base["id"], data["name"], files]
        found = {text for text in _texts(places) if _is_local(text)}
        found |= {options[name] for name in _FOLDERS if options.get(name)}
        found |= set() if base.get("on_hub") else {base["id"]}
        dataset = options.get("dataset_name")
        found |= {dataset} if dataset and not data.get("on_hub") else set()
        sets = (PurePosixPath(file).parent.parent for file in files if not _is_local(file))
        found |= {str(place) for place in sets if len(place.parts) > 1}
        found = {text.rstrip("/\\") for text in found}
        names = {path: _name(path) for path in found if _name(path)}
        home = Path.home()
        names |= {str(home): "~"} if home.name else {}  # of a user without a folder it is /
        both = names | {escape(path): name for path, name in names.items()}
        self._names = dict(sorted(both.items(), key=lambda item: -len(item[0])))
        # A path begins where no word, address or longer path goes on, and ends where its last name does.
        either = "|".join(re.escape(path) for path in self._names)
        self._pattern = re.compile(rf"(?<![\w/:.~])(?:{either})(?![\w.-]*\w)")

    def without(self, text: str) -> str:
        """Return a text in which no local path is left."""
        return self._pattern.sub(lambda match: self._names[match.group()], text)

    def without_in(self, value: Any) -> Any:
        """Return JSON's own kinds of values with `without` applied to every text but the keys."""
        if isinstance(value, dict):
            return {key: self.without_in(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.without_in(item) for item in value]
        return self.without(value) if isinstance(value, str) else value

    def json(self, content: str) -> str:
        """Return a JSON document without local paths; one that holds none stays as it is, to the byte."""
        data = json.loads(content)
        cleared = self.without_in(data)
        return content if cleared == data else json.dumps(cleared, indent=2, ensure_ascii=False) + "\n"

    def delta(self, path: Path) -> bytes:
        """Return a delta whose metadata names no local path; its tensors are as they were.

        Raises:
            ModelError: the file is not a safetensors file.
        """
        return self._safetensors(path, self.without_in)

    def known(self, path: Path) -> bytes:
        """Return known images that are named by the last of their folders; of one outside of all, the name is left.

        Raises:
            ModelError: the file is not a safetensors file.
        """

        def cleared(about: dict[str, Any]) -> dict[str, Any]:
            files = [self.without(file) for file in about["files"]]
            return about | {"files": [_name(file) if _is_local(file) else _end(file) for file in files]}

        return self._safetensors(path, cleared)

    def _safetensors(self, path: Path, clear: Callable[[Any], Any]) -> bytes:
        try:
            with safe_open(path, "pt") as opened:
                metadata = opened.metadata() or {}
                cleared = {key: json.dumps(clear(json.loads(text))) for key, text in metadata.items()}
                if cleared == metadata:
                    return path.read_bytes()
                return save({name: opened.get_tensor(name) for name in opened.keys()}, cleared)  # noqa: SIM118
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(f"cannot read {path}: it is not as hfft wrote it; train again") from error


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _is_local(text: str) -> bool:
    windows = PureWindowsPath(text)
    upwards = ".." in windows.parts
    return "\n" not in text and (upwards or PurePosixPath(text).is_absolute() or windows.is_absolute())


def _end(file: str) -> str:
    return str(PurePosixPath(*PurePosixPath(file).parts[-_KEPT:]))


def _name(path: str) -> str:
    return PureWindowsPath(path).name if PureWindowsPath(path).is_absolute() else PurePosixPath(path).name
