"""What a training starts from: every option, the images, the model and the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.cache.behind import WriteBehind
from hfft.data.load import ImageSets
from hfft.data.preprocessing import Pixels
from hfft.models.delta import Pretrained
from hfft.models.load import Base
from hfft.planning.plan import Plan
from hfft.training.trackers import Trackers

ENOUGH = 100
"""Validation images from which on they choose among weights; each of fewer weighs more than a percentage point."""


@dataclass
class Settings:
    """Every option of a run, grouped as the command line groups them."""

    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    policy: PolicyArguments = field(default_factory=PolicyArguments)
    cache: CacheArguments = field(default_factory=CacheArguments)
    training: FinetuneArguments = field(default_factory=FinetuneArguments)


@dataclass(frozen=True)
class Setup:
    """What a training starts from. Only its weights change, which are trained, and its trackers, which are told.

    Args:
        settings: as given.
        sets: the images.
        model: with the pretrained weights, nothing frozen.
        processor: the model's image processor.
        base: what the model was before.
        pretrained: hashes of the tensors that the base gave.
        plan: what is trained when.
        callbacks: that the caller adds to the Trainer's own.
        trackers: told of all phases as of one training.
        behind: writes activations to disk while the run goes on; None: they are written before.
    """

    settings: Settings
    sets: ImageSets
    model: PreTrainedModel
    processor: BaseImageProcessor
    base: Base
    pretrained: Pretrained
    plan: Plan
    callbacks: tuple[TrainerCallback, ...] = ()
    trackers: Trackers = field(default_factory=Trackers)
    behind: WriteBehind | None = None

    def __repr__(self) -> str:
        """Return a line: its parts hold the model and every image."""
        return f"Setup({str(self.folder)!r}, {self.plan.policy})"

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.settings.training.output_dir or "")

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best epoch on validation are handed back, and not the last ones."""
        training = self.settings.training
        if training.eval_strategy == "no":
            return False
        if training.keep != "auto":
            return training.keep == "best"
        wanted = training.metric_for_best_model is not None or training.early_stopping_patience is not None
        wanted |= training.save_strategy == SaveStrategy.BEST
        return wanted or self.settings.policy.head_init != "random" or self.enough_to_choose

    @property
    def enough_to_choose(self) -> bool:
        """Whether the validation images are enough to choose among weights by."""
        return len(self.sets.validation) >= ENOUGH

    @property
    def plain_pixels(self) -> Pixels:
        """How images that are not augmented become model inputs."""
        return Pixels(self.processor, exact=self.settings.cache.exact)

    @property
    def drawn(self) -> list[str]:
        """Names of the plots, one for each phase, that are drawn into `folder` before the results are written."""
        phases = self.plan.phases if self.settings.training.find_lr else ()
        return [f"lr_finder-{number}.png" for number in range(1, len(phases) + 1)]
