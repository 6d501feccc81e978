"""The models that a Space serves: loaded once, locked while one request looks inside, forgotten when unused."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedModel

from hfft.demo import EMBEDDED_MODEL
from hfft.errors import HfftError, ModelError, one_line
from hfft.explain.cuts import CutChart, cut_chart
from hfft.explain.evidence import PredictionTrace, base_or_reason, head_features, prediction_trace
from hfft.explain.gradcam import ActivationMap
from hfft.explain.journey import Change, Journey, journey
from hfft.explain.pipeline import PipelineTrace, activation_map, pipeline_trace
from hfft.explain.receptive import receptive_fields
from hfft.inference.classifier import Classifier, Prediction, classify, load_classifier
from hfft.inference.runs import Answer, EvaluationImages, FinishedRun, find_runs, read_answers, read_run
from hfft.models.download import fetch
from hfft.output_folder import RECORD
from hfft.tasks.contract import Score

_FACES = 4  # training images that show what a feature is
_FACE = 80  # pixels of their longer side, twice what is drawn
_KEPT = 4  # models in memory at a time

Mark = tuple[int, int]
"""What tells a run from one that lay in the same folder before: the time and the inode of its record."""


@dataclass
class Loaded:
    """A model in memory with what belongs to it.

    Hooks see every forward pass of a model, so one request at a time may use it. All of them compute in one thread:
    each thread that computes keeps memory of its own, and a server has dozens.

    Args:
        classifier: the model.
        run: of the model; None where it has no record.
        images: that it was judged on; None where it has no record.
        thread: where it computes.
        mark: of its run's folder when it was loaded, see `Models.mark`.
        prefix_seconds: what one image takes in the frozen part; None where that was not measured yet.
        asked: when somebody last asked for it, on the monotonic clock.
    """

    classifier: Classifier
    run: FinishedRun | None
    images: EvaluationImages | None
    thread: Executor
    mark: Mark | None = None
    prefix_seconds: float | None = None
    asked: float = field(default_factory=time.monotonic)
    _base: tuple[PreTrainedModel | None, str] | None = None
    _cuts: CutChart | None = None
    _fields: dict[str, float] | None = None
    _small: dict[str, Image.Image | None] = field(default_factory=dict)

    def classify(self, images: list[Image.Image]) -> list[Prediction]:
        """Classify open images."""
        most = self.classifier.task.shown
        return self.thread.submit(lambda: list(classify(self.classifier, images, most))).result()

    def bars(self, found: Prediction) -> tuple[Score, ...]:
        """Return what is drawn of an answer."""
        return self.classifier.task.bars(found.answer, self.classifier.labels)

    def map(self, image: Image.Image, label: str | None = None) -> ActivationMap | None:
        """Return where the evidence for a label, or a number, lies; for the most likely without one."""
        labels = self.classifier.labels
        chosen = labels.index(label) if label in labels else None
        return self.thread.submit(activation_map, self.classifier, image, chosen).result()

    def answers(self) -> list[Answer]:
        """Return what the model said about each image that it was judged on."""
        task, labels = self.classifier.task, self.classifier.labels
        return read_answers(self.run.folder, task, labels) if self.run else []

    def pipeline(self, image: Image.Image) -> PipelineTrace:
        """Follow an image through the five stages."""
        return self.thread.submit(pipeline_trace, self.classifier, image).result()

    def cuts(self) -> CutChart:
        """Return where the model can be cut, and what each cut costs on this machine."""
        if self._cuts is None:
            self._cuts = self.thread.submit(cut_chart, self.classifier).result()
        return self._cuts

    def trace(self, image: Image.Image) -> PredictionTrace:
        """Follow an image through the model, beside its base model."""
        return self.thread.submit(self._trace, image).result()

    def journey(self, image: Image.Image, change: Change | None = None) -> Journey:
        """Follow an image through the model, perhaps with a change made to it, beside its base model."""
        return self.thread.submit(lambda: journey(self.classifier, image, change, self._with_base()[0])).result()

    def fields(self, image: Image.Image) -> dict[str, float]:
        """Return what a cell of each part sees, measured once, at the first image that is asked about."""
        if self._fields is None:
            self._fields = self.thread.submit(receptive_fields, self.classifier, image).result()
        return self._fields

    def faces(self, features: Iterable[int]) -> dict[int, list[tuple[Image.Image, str]]]:
        """Return, for features that the head reads, the training images in which each is largest, with their classes.

        Features are compared at unit length: a feature is large in an image that is mostly made of it. Where the model
        came without its training images, or they are gone, there are none.
        """
        known, labels, found = self.classifier.known, self.classifier.labels, {}
        if known is None or self.images is None:
            return {}
        for number in features:
            rows = np.argsort(-known.features[:, number], kind="stable")[:_FACES]
            pictures = ((self._face(known.files[row]), labels[int(known.labels[row])]) for row in rows)
            found[number] = [(image, label) for image, label in pictures if image is not None]
        return found

    def _face(self, file: str) -> Image.Image | None:
        """Return a small picture of a training image, which is read once."""
        if file not in self._small and self.images is not None:
            image = self.images.trained_on(file, _FACE)
            if image is not None:
                image.thumbnail((_FACE, _FACE))
            self._small[file] = image
        return self._small[file]

    def head_inputs(self, image: Image.Image) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Return what the head reads of an image, in the base model and in this one."""
        return self.thread.submit(lambda: head_features(self.classifier, image, self._with_base()[0])).result()

    def _trace(self, image: Image.Image) -> PredictionTrace:
        return prediction_trace(self.classifier, image, *self._with_base())

    def _with_base(self) -> tuple[PreTrainedModel | None, str]:
        """Return the base model, or why there is none; it is loaded when it is first asked for."""
        if self._base is None:
            self._base = base_or_reason(self.classifier)
        return self._base


class Models:
    """Finds runs and loads them.

    Args:
        chosen: a folder or Hub id to serve; None for the newest run.
        outputs: folder whose runs can be chosen.
        device: where models run; by default a GPU where there is one.
    """

    def __init__(self, chosen: str | None, outputs: Path, device: str | None = None) -> None:
        self.chosen = chosen
        self.outputs = outputs
        self.device = device
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.Lock()
        # Half of the cores, so that the page has the others: a layer waits for the slowest of the threads that share
        # it, and 32 clients on 2 cores got 7 answers a second from one thread, 1 from two.
        self._thread = ThreadPoolExecutor(
            1, "hfft-models", initializer=torch.set_num_threads, initargs=(max(1, (os.cpu_count() or 1) // 2),)
        )

    def runs(self) -> dict[str, str]:
        """Return what can be served, each once, newest first: from the name for people to the folder or Hub id."""
        found = find_runs(self.outputs) if self.outputs.is_dir() else []
        if not self.chosen:
            return {run.name: str(run.folder) for run in found}
        chosen = Path(self.chosen).resolve()
        others = {run.name: str(run.folder) for run in found if run.folder.resolve() != chosen}
        return {self.chosen: self.chosen} | others

    def default(self) -> str | None:
        """Return the folder or Hub id that is served first; None where there is none."""
        return next(iter(self.runs().values()), None)

    def get(self, source: str) -> Loaded:
        """Return a model, loaded where it is not in memory yet, or where another run lies in its folder by now.

        While a folder has no record, as where a run is being replaced, its model is the one that is in memory.

        Args:
            source: a value of `runs`, or a folder of this server's own making; never what a visitor typed.

        Raises:
            HfftError: it cannot be loaded.
        """
        with self._lock:
            loaded, mark = self._loaded.get(source), _mark(source)
            if loaded is None or mark not in (None, loaded.mark):
                loaded = self._load(source)
                loaded.mark = mark
            loaded.asked = time.monotonic()
            self._loaded[source] = loaded
            self._loaded.move_to_end(source)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return loaded

    def mark(self, source: str) -> Mark | None:
        """Return the mark of the run that `get` answers with; None where there is no folder with a record."""
        with self._lock:
            loaded = self._loaded.get(source)
            return _mark(source) or (loaded.mark if loaded else None)

    def pretrained(self, base: str | None) -> Loaded:
        """Return a pretrained model with the head that it came with.

        Args:
            base: what a run's record names, and is here; None for the embedded model.

        Raises:
            HfftError: it cannot be loaded.
        """
        return self.get(base or EMBEDDED_MODEL)

    def forget(self, source: str) -> None:
        """Drop a model whose folder is about to go."""
        with self._lock:
            self._loaded.pop(source, None)

    def rest(self, seconds: float) -> None:
        """Drop the models that nobody asked for in so many seconds, with the memory that they take."""
        with self._lock:
            for source, loaded in list(self._loaded.items()):
                if time.monotonic() - loaded.asked > seconds:
                    del self._loaded[source]

    def read(self, source: str) -> FinishedRun:
        """Return a run without loading its model.

        Raises:
            HfftError: it has no record.
        """
        folder = fetch(source)
        return read_run(folder, self._name(source))

    def _load(self, source: str) -> Loaded:
        try:
            classifier = load_classifier(None if source == EMBEDDED_MODEL else source, device=self.device)
        except (HfftError, OSError, RuntimeError, ValueError, KeyError) as error:
            name = Path(source).name  # visitors have no business with the folders above it
            raise ModelError(f"{name} cannot be loaded: {one_line(error).replace(source, name)}") from error
        if classifier.record is None:
            return Loaded(classifier, None, None, self._thread)
        run = self.read(source)
        return Loaded(classifier, run, EvaluationImages(run.record, local=Path(source).is_dir()), self._thread)

    def _name(self, source: str) -> str:
        return next((name for name, place in self.runs().items() if place == source), Path(source).name)


def _mark(source: str) -> Mark | None:
    try:
        found = os.stat(Path(source) / RECORD)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
