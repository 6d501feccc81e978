"""What several runs in one process have in common, loaded once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hfft.arguments import DataArguments, ModelArguments
from hfft.data.check import check_before_training
from hfft.data.load import ImageSets, load_usable_sets, skipped_line
from hfft.models.load import Base, load_model
from hfft.tasks.contract import Task
from hfft.tasks.single_label import SINGLE_LABEL

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel


Loaded = tuple["PreTrainedModel", "BaseImageProcessor", Base]


def what_was_read(sets: ImageSets, listed: str = "hfft check names all") -> Iterator[str]:
    """Say how images were read, and which of them were skipped; of many, `listed` says where the others are named."""
    yield from sets.notes
    if sets.skipped:
        yield skipped_line(sets.skipped, listed)


class Shared:
    """Images, what was found in them, and the pretrained model, kept from one run to the next.

    Only what was loaded last is kept, so that runs on many models take no more memory than runs on one. The
    images are those of the moment when they were loaded; what happens to their files later is not seen.

    Args:
        keep: false for a single run, which has nobody to share with.
    """

    def __init__(self, keep: bool = True) -> None:
        self.keep = keep
        self._kept: dict[str, tuple[Any, Any]] = {}

    def images(self, data: DataArguments, seed: int, test: bool = True) -> ImageSets:
        """Return what `hfft.data.load.load_usable_sets` gives."""
        options = (vars(data).copy(), seed, test)
        sets: ImageSets = self._once("images", options, lambda: load_usable_sets(data, seed, test))
        return sets

    def model(self, arguments: ModelArguments, labels: Sequence[str], seed: int, task: Task = SINGLE_LABEL) -> Loaded:
        """Return what `hfft.models.load.load_model` gives under a seed: a model of its own for each run.

        Raises:
            ModelError: nothing is found there, it is not an image classifier, or its files are unusable.
        """
        from transformers import set_seed

        def load() -> Loaded:
            set_seed(seed)
            return load_model(arguments, labels, task)

        loaded: Loaded = self._once("model", (vars(arguments).copy(), tuple(labels), seed, task.name), load)
        return copy.deepcopy(loaded) if self.keep else loaded

    def forget_images(self) -> None:
        """Let go of the images and of what was found in them: their files may be others by the next run."""
        for what in ("images", "findings"):
            self._kept.pop(what, None)

    def findings(self, sets: ImageSets) -> str:
        """Return what `hfft.data.check.check_before_training` finds in the images."""
        found: str = self._once("findings", sets, lambda: check_before_training(sets))
        return found

    def _once(self, what: str, key: Any, load: Callable[[], Any]) -> Any:
        if not self.keep:
            return load()
        if what not in self._kept or self._kept[what][0] != key:
            self._kept.pop(what, None)  # two models at once may be more than memory holds
            self._kept[what] = (key, load())
        return self._kept[what][1]
