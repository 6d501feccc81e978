"""What a task is: how labels are encoded, learned, judged and read. Whoever else needs to know asks it."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hfft.errors import ArgumentError, DataError
from hfft.metrics import WORDS, ClassRow, PairedDifference, SplitMetrics
from hfft.tasks.scored import Scored
from hfft.trust.calibration import set_temperature
from hfft.trust.selective import Selective
from hfft.wording import count_of

if TYPE_CHECKING:
    from torch import Tensor

Label = Any
"""What an image is labelled with: a class's name, a tuple of them, or a tuple of numbers; the task knows which."""
Targets = NDArray[Any]
"""Encoded labels of images, first dimension the images."""
_WIDEST = 1.0  # of an interval: from what a constant answer reaches to a perfect one; a wider one says nothing

NO_LABEL = "no label"
THRESHOLDS = "decision_thresholds"
"""In a model's configuration: from which probability on each of its labels is given to an image."""


@dataclass(frozen=True)
class Score:
    """A label with its probability, 0 to 1."""

    label: str
    probability: float

    @property
    def said(self) -> str:
        """The probability in words."""
        return f"{self.probability:.1%}"

    @property
    def share(self) -> float | None:
        """How long a bar of it is, 0 to 1; None where it has none."""
        return self.probability

    @property
    def mark(self) -> float | None:
        """Where a bar reaches what gives the label, 0 to 1; None where nothing does."""
        return None


@dataclass(frozen=True)
class Marked(Score):
    """A label that is given from a probability on.

    Args:
        threshold: that probability.
    """

    threshold: float

    @property
    def mark(self) -> float:
        """The threshold."""
        return self.threshold


@dataclass(frozen=True)
class Measured(Score):
    """A number for a target, which has no probability.

    Args:
        value: the number.
    """

    value: float

    @property
    def said(self) -> str:
        """The number in words."""
        return f"{self.value:.4g}"

    @property
    def share(self) -> None:
        """There is no bar: nobody says between which ends."""
        return None


@dataclass(frozen=True)
class Told:
    """What a line of ``predictions.csv`` tells, in words.

    Args:
        label: what the image is labelled with.
        prediction: what was answered.
        probability: of that, 0 to 1; not a number where it has none.
        wrong: how far off the answer is, 0 for not at all; to order the answers of one model by.
    """

    label: str
    prediction: str
    probability: float
    wrong: float


@dataclass(frozen=True)
class Answer:
    """What a model says about an image.

    Args:
        label: the most likely label; empty where it gives numbers.
        probability: of that label, 0 to 1.
        top: the most likely labels, best first.
        labels: those that reach their thresholds, perhaps none; None where labels exclude each other.
        values: by target; empty where it gives labels.
        node: of a tree of labels, the deepest one that is sure enough, whose name is empty at the root; else None.
    """

    label: str = ""
    probability: float = 0.0
    top: tuple[Score, ...] = ()
    labels: tuple[str, ...] | None = None
    values: dict[str, float] = field(default_factory=dict)
    node: Score | None = None

    @property
    def headline(self) -> str:
        """The answer in a few words: its numbers, its labels, or the most likely one."""
        if self.values:
            return numbers(self.values)
        return self.label if self.labels is None else ", ".join(self.labels) or NO_LABEL


@dataclass(frozen=True)
class Judgement:
    """How good answers to a split are.

    Args:
        metrics: of the split.
        per_class: one row for each label; none for numbers.
        selective: accuracy where the model is surest; empty where there is no accuracy.
    """

    metrics: SplitMetrics
    per_class: list[ClassRow] = field(default_factory=list)
    selective: Selective = field(default_factory=Selective)


@dataclass(frozen=True)
class Task(ABC):
    """What the labels of images mean, and what follows from it.

    Logits are of shape (images, outputs) wherever they stand: one output per label or target. *Answers* are what models
    and baselines are compared by: label numbers (images,), probabilities or values (images, outputs).

    Attributes:
        name: as ``--task`` says it.
        problem_type: as transformers says it in ``config.json``.
        metric: decides which epoch is best; higher is better, and 1 is the most that it can be.
        beside: metrics of a finished model that runs are shown with, the last of which decides among equals: lower is
            better.
        metrics: of `epoch_metrics`, those that ``--metric_for_best_model`` may name.
        plots: names of the files that show the answers.
        output: what an exported model calls what it makes of its logits.
        replies: what answers are called, in the plural.
        chooses: whether an image has one label of several. Temperatures, sets of labels and unknown images need it.
        ranges: whether the strata are ranges of numbers, in order; else they are classes, none of which may be lost.
        least: how many labels there must be.
        noun: what a label is called, and several.
        cuts: whether an image with a part of another one's has labels, which ``--cutmix`` needs.
        tags: of its card, beside those of every image model.
        missing: what is not learned of such a model, and why, in a line; empty where nothing is missing.
        shown: labels of an answer that are shown at most.
        made: what is made of the head's sums, in a sentence.
        gives: what the head gives out, within a sentence.
        mistakes: what its answers that are most wrong are called, and what stands between the truth and them.
    """

    name: ClassVar[str]
    problem_type: ClassVar[str]
    metric: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    beside: ClassVar[tuple[str, ...]] = ("loss",)
    plots: ClassVar[tuple[str, ...]] = ()
    output: ClassVar[str] = "probabilities"
    replies: ClassVar[str] = "labels"
    chooses: ClassVar[bool] = False
    ranges: ClassVar[bool] = False
    least: ClassVar[int] = 1
    noun: ClassVar[tuple[str, str]] = ("class", "classes")
    missing: ClassVar[str] = ""
    shown: ClassVar[int] = 5
    made: ClassVar[str]
    gives: ClassVar[str]
    mistakes: ClassVar[str]
    cuts: ClassVar[bool] = True
    tags: ClassVar[tuple[str, ...]] = ()

    # Labels ---------------------------------------------------------------------------------------------

    def parts(self, label: Label) -> tuple[str, ...]:
        """Return the names of the classes that a label consists of."""
        return tuple(label)

    def classes(self, labels: Sequence[Label], order: Sequence[str]) -> tuple[str, ...]:
        """Return the classes that occur in the labels of training images, in the order of the data set."""
        present = {part for label in labels for part in self.parts(label)}
        return tuple(name for name in order if name in present)

    def count(self, labels: int) -> str:
        """Return a number of labels with what they are called."""
        return count_of(labels, *self.noun)

    @abstractmethod
    def encode(self, labels: Sequence[Label], classes: Sequence[str]) -> Targets:
        """Encode labels whose parts are all among the classes."""

    @abstractmethod
    def decode(self, targets: Targets, classes: Sequence[str]) -> list[Label]:
        """Give back what was encoded."""

    @abstractmethod
    def strata(self, targets: Targets) -> NDArray[np.int64]:
        """Return the stratum of each image, shape (images,): a sample keeps their shares."""

    def told(self, options: Any) -> Task:
        """Return the task with what the options of the images say of it."""
        return self

    def fitted_to(self, targets: Targets) -> Task:
        """Return the task with what it learns of the training images' targets."""
        return self

    # Training -------------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """Return the loss, summed over images and outputs.

        Args:
            logits: shape (batch, outputs).
            targets: encoded labels of a batch, or what `shares` made of them.
            weights: of `class_weights`; None for none.
            smoothing: label smoothing, 0 for none.
        """

    def items(self, targets: Tensor) -> int:
        """Return what a summed loss is divided by to be a mean."""
        return targets.numel()

    def shares(self, targets: Tensor, classes: int) -> Tensor:
        """Return targets that can be mixed with those of other images, in float32."""
        return targets

    def class_weights(self, targets: Targets, classes: int) -> Tensor:
        """Return what ``--class_weights balanced`` weighs the loss by."""
        raise ArgumentError(f"--class_weights balanced weighs classes, which a {self.name} task has none of")

    def check_options(self, smoothing: float) -> None:
        """Make sure that options of training have a meaning here.

        Raises:
            ArgumentError: one has none.
        """
        if smoothing:
            raise ArgumentError(
                f"--label_smoothing_factor spreads one label over all others, which a {self.name} task does not have; "
                "leave it out"
            )

    @property
    def affine(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Scale and offset by which a trained head's outputs become what the task asks for; None where they are it."""
        return None

    @property
    def scaled(self) -> Task:
        """The task of a model whose head was scaled by `affine`."""
        return self

    # Answers --------------------------------------------------------------------------------------------

    @abstractmethod
    def scores(self, logits: NDArray[Any]) -> NDArray[np.float32]:
        """Return what logits stand for, probabilities or values, of the same shape."""

    @abstractmethod
    def tensor_scores(self, logits: Tensor) -> Tensor:
        """Return the same within a model, as an exported one computes it."""

    @abstractmethod
    def same(self, scores: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for which images two models' scores give the same answer, shape (images,)."""

    @abstractmethod
    def answer(self, scores: NDArray[Any], classes: Sequence[str], most: int) -> Answer:
        """Read the scores of one image, shape (outputs,), with `most` of the most likely labels at most."""

    @abstractmethod
    def table(
        self, targets: Targets, scores: NDArray[Any], classes: Sequence[str]
    ) -> tuple[list[str], list[list[str]]]:
        """Return the columns of a table of images beside their files: their labels, and what was answered."""

    @abstractmethod
    def told_of(self, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> list[Told]:
        """Read lines of such a table.

        Raises:
            KeyError: a column is missing.
            ValueError: a number is none.
        """

    def bars(self, answer: Answer, classes: Sequence[str]) -> tuple[Score, ...]:
        """Return what is drawn of an answer, the first first."""
        return answer.top

    def heads(self, classes: Sequence[str], most: int) -> list[str]:
        """Return the titles of the columns that hold an answer with `most` labels at most."""
        more = [
            name
            for place in range(2, min(most, len(classes)) + 1)
            for name in (f"label_{place}", f"probability_{place}")
        ]
        return ["label", "probability", *more]

    def cells(self, answer: Answer) -> list[str]:
        """Return the cells of an answer under those titles, as far as it has them."""
        return [cell for score in answer.top for cell in (score.label, f"{score.probability:.6f}")]

    def said(self, answer: Answer) -> str:
        """Say an answer within a line."""
        return "  ".join(f"{score.label} {score.probability:.3f}" for score in answer.top)

    @abstractmethod
    def exported(self) -> dict[str, str]:
        """Say what an exported model gives out: its logits as ``output``, and `Task.output` under that name."""

    def columns(self, classes: Sequence[str]) -> list[str] | None:
        """Return the columns that a table has the labels in where nobody says; None where their types tell."""
        return None

    def aligned(self, labels: Sequence[Label], order: Sequence[str], classes: Sequence[str]) -> list[Label]:
        """Return the labels of a data set in the order of a model's classes.

        Raises:
            DataError: they do not fit the model.
        """
        return list(labels)

    # Judging --------------------------------------------------------------------------------------------

    @abstractmethod
    def epoch_metrics(self, logits: NDArray[Any], targets: Targets) -> dict[str, float]:
        """Return the metrics of a split in training, with its mean loss as ``loss``."""

    @abstractmethod
    def judge(self, logits: NDArray[Any], targets: Targets, classes: Sequence[str], most: int = 5) -> Judgement:
        """Judge a finished model's logits; `most` labels count for the top-k accuracy."""

    def more(self, values: dict[str, float]) -> str:
        """Say what there is to say of a split's metrics beside the one that decides; empty for nothing."""
        return ""

    def calibrated(self, logits: NDArray[Any], targets: Targets) -> Task:
        """Return the task as a finished model solves it, with what is fitted to the validation images."""
        return self

    def write(self, config: Any) -> None:
        """Note in a model's configuration how its logits are read."""
        config.problem_type = self.problem_type
        vars(config).pop(THRESHOLDS, None)
        set_temperature(config, None)

    # Baselines ------------------------------------------------------------------------------------------

    @abstractmethod
    def constant(self, targets: Targets, count: int) -> NDArray[Any]:
        """Return the answers, to `count` images, of who knows nothing but the training images' targets."""

    @abstractmethod
    def probe(self, strength: float) -> Any:
        """Return scikit-learn's estimator that a linear probe is, with an inverse strength of regularization."""

    @abstractmethod
    def probed(self, estimator: Any, features: NDArray[Any]) -> NDArray[Any]:
        """Return the answers of a fitted probe."""

    @abstractmethod
    def answers(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the answers of a model."""

    @abstractmethod
    def compared(self, answers: NDArray[Any], targets: Targets) -> dict[str, float]:
        """Return the metrics that a baseline is shown with, the task's own among them."""

    def counted(self, score: float, images: int) -> str:
        """Say the metric that decides, of so many images."""
        return f"{WORDS[self.metric].name} {score:.3f}"

    def reached(self, score: float, images: int, interval: tuple[float, float] | None = None) -> str:
        """Say the metric that decides in a sentence, with its 95 % interval where there is one."""
        if not math.isfinite(score) or not images:
            return f"no {WORDS[self.metric].name}"
        ends = ""
        if interval:
            told = interval[1] - interval[0] <= _WIDEST
            ends = f" ({'95 % interval {:.3f} to {:.3f}'.format(*interval) if told else 'too few for an interval'})"
        return f"{WORDS[self.metric].name} {score:.3f} on {count_of(images, 'image')}{ends}"

    @abstractmethod
    def scored(self, answers: NDArray[Any], targets: Targets) -> Scored:
        """Return how good answers are by the metric that decides, with what is needed to compare them with others."""

    def difference(self, answers: NDArray[Any], others: NDArray[Any], targets: Targets) -> PairedDifference | None:
        """Return by how much answers are better than others, with an interval; None where none is known."""
        return None

    # Words ----------------------------------------------------------------------------------------------

    @abstractmethod
    def described(self, classes: Sequence[str]) -> str:
        """Say what a model of this task is, for example ``An image classifier with 3 labels``."""

    def deciding(self) -> str:
        """Say what in the configuration decides which answer is given, in Markdown; empty where nothing does."""
        return ""

    @abstractmethod
    def limit(self, classes: Sequence[str]) -> str:
        """Say, without a full stop, what such a model cannot do."""

    @abstractmethod
    def reading(self) -> str:
        """Return lines of Python that print what ``logits`` of one image, of a ``model``, stand for."""


def needs_one_label(task: Task, what: str) -> None:
    """Refuse a task where an image does not have one label of several.

    Args:
        task: of a data set or model.
        what: the command or option that needs it.

    Raises:
        ArgumentError: naming both.
    """
    if not task.chooses:
        raise ArgumentError(f"{what} takes one label per image so far, and this is {task.name}; see docs/tasks.md")


def numbers(values: Mapping[str, float]) -> str:
    """Say numbers by their names."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def listed(labels: Sequence[str]) -> str:
    """Return labels as a JSON list, which a cell of a table can hold."""
    return json.dumps(list(labels), ensure_ascii=False)


def best_scores(labels: Sequence[str], shares: NDArray[Any], most: int) -> tuple[Score, ...]:
    """Return the most probable labels of one image, best first.

    Args:
        labels: the classes' names.
        shares: probability of each, shape (labels,).
        most: how many to return at most.
    """
    order = np.argsort(-shares, kind="stable")[:most]
    return tuple(Score(labels[number], float(shares[number])) for number in order)


def check_pairs(logits: NDArray[Any], targets: Targets) -> None:
    """Make sure that logits and targets, both (images, outputs), belong together.

    Raises:
        DataError: they do not, or there are no images.
    """
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise DataError(f"logits of shape {logits.shape} and labels of shape {targets.shape} do not belong together")
    if len(targets) == 0:
        raise DataError("there are no images to evaluate; give at least one")
