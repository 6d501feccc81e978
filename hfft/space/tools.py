"""The Space for programs: tools with plain arguments and answers in JSON, which `--mcp` offers to assistants.

No page stands behind a program, so each call names the visit that it belongs to; a new visit's name is answered by
`Tools.start_training` and nobody can guess it.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gradio as gr

from hfft.arguments import DataArguments
from hfft.data.check import Finding, check_parts, named_parts
from hfft.data.load import find_splits
from hfft.errors import HfftError
from hfft.files import sha256_of
from hfft.report.typed_json import as_json
from hfft.space.service import Space
from hfft.space.trainings.queue import Training, data_options
from hfft.space.trainings.sessions import Session, new_folder
from hfft.space.trainings.visitors import DEFAULT_POLICY, ZIP
from hfft.space.uploads import Uploaded, remove, sent, unpack
from hfft.space.widgets import offer

_LONGEST = 50.0  # seconds that one call may wait: clients give up after a minute
_FOLLOWER = "follower"


class Tools:
    """What a program may ask the Space for, within the limits that visitors have.

    Args:
        space: what answers.
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def offer(self) -> None:
        """Make the tools endpoints of the page that is being built."""
        many = self.space.options.max_waiting + 2
        for tool, at_once in self._all(many).items():
            offer(tool, tool.__name__, concurrency_limit=at_once)

    def _all(self, many: int) -> dict[Callable[..., str], int]:
        """Return the tools, and how many calls of each run at a time."""
        return {
            self.classify_image: 2,
            self.describe_run: 2,
            self.check_images: 1,
            self.start_training: 2,
            self.watch_training: many,
            self.cancel_training: many,
        }

    def classify_image(self, image: str, model: str = "", visit: str = "") -> str:
        """Label an image with a fine-tuned model: the most likely labels with calibrated probabilities (0 to 1).

        A multi-label model also answers with labels, those that reach their thresholds; a regression model with values
        in place of labels and probabilities. Where "unknown" is true, the image is unlike all training images, and its
        label says little.

        Args:
            image: A data address (data:image/jpeg;base64,...), or the address of a file that was uploaded to this
                server.
            model: A name that describe_run lists. Left out: the newest model of the visit, else the one that is served.
            visit: What start_training answered; only needed for a model that was trained here.

        Returns:
            JSON with model, label, probability, top (labels and probabilities), unknown, unknown_score, nearest (labels
            of the most similar training images).
        """
        session = self._session(visit)
        name = model or self.space.current(session)
        loaded = self.space.loaded(session, name or None)
        with sent(image, self.space.work, self.space.limits) as path:
            opened = self.space.image(str(path), loaded.classifier.pixels.least)
        (found,) = loaded.classify([opened])
        answer = found.plain()
        answer.pop("file")  # it has none of its own
        if found.nearest:
            answer["nearest"] = [each.label for each in found.nearest]
        return _text({"model": name, **answer})

    def describe_run(self, model: str = "", visit: str = "") -> str:
        """Describe a fine-tuned model: policy, labels, numbers of images, metrics by split, baselines, epochs.

        Args:
            model: Its name. Left out: the newest model of the visit, else the one that is served.
            visit: What start_training answered; only needed for a model that was trained here.

        Returns:
            JSON with models (all names that can be used), model, policy, labels, images, metrics, baselines,
            best_epoch, seconds, decisions, trained_share (of all parameters) and epochs.
        """
        session = self._session(visit)
        names = self.space.choices(session)
        name = model or self.space.current(session)
        return _text({"models": names, "model": name, **self._described(session, name)})

    def check_images(self, images: str) -> str:
        """Check a data set before training: unreadable, equal, similar, mislabelled and unusual images.

        Args:
            images: A zip with one folder of images for each class (perhaps below train/, validation/ and test/), as a
                data address (data:application/zip;base64,...) or the address of a file that was uploaded to this
                server.

        Returns:
            JSON with images (by split and class), left_out (file, reason), notes, and findings (severity: error,
            warning or note; kind, what, files, groups).
        """
        folder = new_folder(self.space.work, "uploads")
        try:
            with sent(images, self.space.work, self.space.limits) as path:
                found = unpack(path, folder, self.space.limits)
            findings = _checked(folder, found)
        finally:
            remove([folder], self.space.work)
        left_out = [{"file": name, "reason": reason} for name, reason in found.left_out]
        splits = {split: found.of(split) for split, _ in found.counts}
        return _text({"images": splits, "left_out": left_out, "notes": found.notes, "findings": findings})

    def start_training(
        self, images: str = "", policy: str = DEFAULT_POLICY, epochs: int = 3, model: str = "", visit: str = ""
    ) -> str:
        """Fine-tune on a zip of class folders, with most of the model frozen; returns at once.

        Ask watch_training for its progress. One training runs at a time on this server, the others wait; numbers of
        images, classes, epochs and minutes are limited, and an error says what the limit is.

        Args:
            images: As for check_images. Left out: those that this visit trained on before.
            policy: What is trained: last_block, head, last_n:2, lp_ft, full, ... An unknown one is answered by all.
            epochs: Passes over the training images.
            model: A name that describe_run lists, from whose pretrained base to begin. Left out: as for describe_run.
            visit: What an earlier call answered, to train again in the same visit. Left out: a new visit begins.

        Returns:
            JSON as of watch_training, and data (what was found in the zip). Keep the visit: it is the only key.
        """
        session = self.space.visits.enter(visit) if visit else self.space.visits.begin()
        trainings = self.space.trainings
        if images:
            with sent(images, self.space.work, self.space.limits) as path:
                trainings.read_zip(session, str(path))
        name = model or self.space.current(session)
        source = self.space.source(session, name) if name else None
        training = trainings.start(session, ZIP, policy, epochs, source)
        session.desks[_FOLLOWER] = self._followed(session, training)
        return _text({**self._state(session), "data": trainings.describe(session)})

    def watch_training(self, visit: str, seconds: float = 20.0) -> str:
        """Wait for the training of a visit, and say where it stands; call it again while it is waiting or running.

        Args:
            visit: What start_training answered.
            seconds: How long to wait for the end, 50 at most.

        Returns:
            JSON with visit, state (waiting, running, done, cancelled, failed), message, station (load, fill, train,
            evaluate), share (of the station that is done, 0 to 1), seconds and epochs; when it is done, also model (for
            classify_image) and run (as of describe_run).
        """
        session = self.space.visits.enter(visit)
        if follower := session.desks.get(_FOLLOWER):
            follower.join(min(max(seconds, 0.0), _LONGEST))
        return _text(self._state(session))

    def cancel_training(self, visit: str) -> str:
        """End the training of a visit; its images stay for another one.

        Args:
            visit: What start_training answered.

        Returns:
            JSON as of watch_training.
        """
        session = self.space.visits.enter(visit)
        if session.training is not None:
            self.space.trainings.queue.cancel(session.training)
        return _text(self._state(session))

    def _session(self, visit: str) -> Session:
        return self.space.visits.enter(visit) if visit else Session()

    def _followed(self, session: Session, training: Training) -> threading.Thread:
        """Follow a training to its end: an assistant may look away for longer than a page that was closed."""
        follow = self.space.trainings.follow(session, training)
        follower = threading.Thread(target=lambda: deque(follow, maxlen=0), name="hfft-follower", daemon=True)
        follower.start()
        return follower

    def _state(self, session: Session) -> dict[str, Any]:
        training = session.training
        if training is None:
            raise HfftError("nothing was trained in this visit; start a training first")
        names = ("state", "message", "station", "share", "seconds")
        found = {"visit": session.id, **{name: getattr(training, name) for name in names}}
        found["epochs"] = [asdict(row) for row in training.rows]
        if training.state == "done" and session.own:
            found["model"] = name = next(reversed(session.own))
            found["run"] = self._described(session, name)
        return found

    def _described(self, session: Session, name: str) -> dict[str, Any]:
        run = self.space.models.read(self.space.source(session, name or None))
        return run.record.summary() | {"trained_share": run.trained_share, "epochs": [asdict(row) for row in run.rows]}


def only_tools(blocks: gr.Blocks, tools: type[Tools] = Tools) -> None:
    """Take everything from a page's MCP server that is not a tool: the page's own endpoints need a page.

    Raises:
        HfftError: there is no server.
    """
    server = blocks.mcp_server_obj
    if server is None:
        blocks.close(verbose=False)
        raise HfftError(f"the MCP server did not start: {blocks.mcp_error}")
    names = {f"/{name}" for name in vars(tools)} - {"/offer"}
    server.tool_to_endpoint = {tool: place for tool, place in server.tool_to_endpoint.items() if place in names}


def _text(answer: dict[str, Any]) -> str:
    """Return an answer as JSON: an MCP server would write a dictionary as Python does."""
    return json.dumps(as_json(answer), ensure_ascii=False)


def _checked(folder: Path, found: Uploaded) -> list[Finding]:
    """Check images that were unpacked; findings call them by their names in the zip."""
    options: dict[str, Any] = data_options(folder)
    data = DataArguments(**options)
    findings = check_parts(named_parts(find_splits(data).splits, data), lambda probes, total: probes, workers=0)
    names = {}
    for path in folder.glob("*/*/*"):
        split, file = path.relative_to(folder).as_posix().split("/", 1)
        names[f"{split}: {file}"] = f"{split}: {found.seen[sha256_of(path)].removeprefix(f'{split}/')}"
    return [_renamed(finding, names) for finding in findings]


def _renamed(finding: Finding, names: dict[str, str]) -> Finding:
    def called(files: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(file, file) for file in files)

    return replace(finding, files=called(finding.files), groups=tuple(map(called, finding.groups)))
