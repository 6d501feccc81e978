"""A quiz on partial fine-tuning: some of it asks for a guess before it shows what was measured of the loaded model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hfft.inference.runs import FinishedRun
from hfft.metrics import wilson_interval
from hfft.wording import count_of


@dataclass(frozen=True)
class Verdict:
    """What is said of an answer.

    Args:
        text: in words.
        right: whether it counts; None where nothing was answered.
    """

    text: str
    right: bool | None


@dataclass(frozen=True)
class Question:
    """One question with its choices.

    Args:
        text: the question.
        choices: what can be answered.
        answer: place of the right choice.
        explanation: why it is right, for everyone who answered.
        reasons: of each choice, why it is wrong; nothing for the right one.
        own: whether its figures are those of the loaded model.
    """

    text: str
    choices: tuple[str, ...]
    answer: int
    explanation: str
    reasons: tuple[str, ...]
    own: bool = False

    def grade(self, choice: str | float | None) -> Verdict:
        """Say whether a choice is right, and why; of a wrong one, why it is wrong."""
        if choice not in self.choices:
            return Verdict("Choose an answer first.", None)
        place = self.choices.index(str(choice))
        if place == self.answer:
            return Verdict(f"Right. {self.explanation}", True)
        return Verdict(f"Not quite. {self.reasons[place]} {self.explanation}", False)


@dataclass(frozen=True)
class Guess:
    """A question whose answer was measured, and is shown after a guess.

    Args:
        text: the question.
        most: the largest guess; the smallest is 0.
        unit: that is written after a guess.
        measured: the answer.
        near: how far a guess may be from it to count.
        said: the answer in words, with what it was measured on.
        explanation: what it means.
    """

    text: str
    most: float
    unit: str
    measured: float
    near: float
    said: str
    explanation: str
    own: bool = True

    def grade(self, choice: str | float | None) -> Verdict:
        """Say how far a guess is from what was measured."""
        try:
            guess = float(choice if choice is not None else math.nan)
        except ValueError:
            guess = math.nan
        if not 0 <= guess <= self.most:
            return Verdict(f"Guess a number from 0 to {self.most:g} first.", None)
        away = abs(guess - self.measured)
        right = away <= self.near
        hit = "Right: near enough." if right else f"Not quite: {away:.3g}{self.unit} away."
        return Verdict(f"{hit} You said {guess:g}{self.unit}; {self.said}. {self.explanation}", right)


Item = Question | Guess

GENERAL = (
    Question(
        "You have 300 images and a model pretrained on a million. Why freeze most of its layers?",
        (
            "Frozen layers are skipped, so each prediction takes less time",
            "300 images can spoil general features, and hardly improve them",
            "A frozen model learns from images that nobody has labelled",
        ),
        1,
        "Edges, textures and shapes serve nearly every task. With few images, training them all mostly fits noise; "
        "frozen, they also give the same activations every time, so one pass per image is enough.",
        (
            "In a prediction every layer computes, frozen or not: it takes as long as before.",
            "",
            "Labels are needed as ever: they say what the trained part is to learn.",
        ),
    ),
    Question(
        "Every weight of a batch-norm layer is frozen, but the layer runs in train mode. What happens?",
        (
            "Nothing changes, since no gradient reaches what is frozen",
            "The layer is skipped, since there is nothing in it to train",
            "Its running mean and variance move with every batch it sees",
        ),
        2,
        "The running statistics are buffers, not parameters: no gradient reaches them, and still each forward pass "
        "in train mode moves them. Frozen layers have to stay in eval mode, and hfft compares a hash of parameters "
        "and buffers before and after.",
        (
            "Not everything that changes is changed by a gradient.",
            "A layer without trainable weights computes all the same.",
            "",
        ),
    ),
    Question(
        "Only the head, or the last block as well?",
        (
            "The head alone, since whatever is cheaper generalises better",
            "The last block too, once there are some dozens of images per class",
            "Every layer, since more trained parameters always learn more",
        ),
        1,
        "A new head can only weigh the features that are there. The last block makes the most specialised features, "
        "those of the old task, and gains most from seeing the new images.",
        (
            "For very few images, or a first look; but a head cannot make a feature that is missing.",
            "",
            "More of them learn more of the noise as well, which few images are full of.",
        ),
    ),
    Question(
        "What must hold so that the frozen part's activations can be kept and used again?",
        (
            "The same pixels give the same output in every epoch",
            "All of the images have the same height and width",
            "Every batch has the same number of images in it",
        ),
        0,
        "Dropout, moving batch-norm statistics or fresh random crops would give other activations each time. That is "
        "why the frozen part is held in eval mode, and why augmentation is limited to a few seeded views per image.",
        (
            "",
            "They are brought to one size before the model sees them, whatever size they came in.",
            "Each image passes on its own: its activations do not depend on what else is in the batch.",
        ),
    ),
    Question(
        "When is it worth unfreezing more blocks?",
        (
            "When training accuracy is high and validation accuracy is low",
            "When there is time left, as it can only make the model better",
            "When there are many images, and accuracy stays low on both sets",
        ),
        2,
        "X-rays or drawings, unlike photographs, need other features earlier in the model; and many images can train "
        "them without learning their noise.",
        (
            "That gap is overfitting, which more trainable parameters make worse.",
            "It can make the model worse: what few images spoil cannot be told from what they improve.",
            "",
        ),
    ),
)


OWN = 3
"""Questions about a run at most."""


def make_quiz(run: FinishedRun | None) -> tuple[Item, ...]:
    """Return the questions: five general ones and, where there is a run, up to three about its own figures."""
    if run is None:
        return GENERAL
    own: tuple[Item | None, ...] = (_share_guess(run), _passes_question(run), _probe_guess(run))
    return (*GENERAL, *(item for item in own if item is not None))


def _share_guess(run: FinishedRun) -> Guess | None:
    """Ask for the head's share, since the share of all that was trained stands above the page."""
    parts = run.record.parts
    total, head = sum(part.parameters for part in parts), sum(part.parameters for part in parts if part.name == "head")
    if not total or not head:
        return None
    kept = ", and a hash over them says so" if run.record.frozen and run.record.frozen.unchanged else ""
    trained = [part for part in parts if part.trained]
    count = sum(part.trained for part in trained)
    return Guess(
        f"This model has {total:,} parameters. What share of them is the head, the one part that is new?",
        100,
        " %",
        100 * head / total,
        5,
        f"counted were {100 * head / total:.1f} %, {head:,} of {total:,}",
        f"Trained were {count:,} ({_listed([part.name for part in trained])}); the other "
        f"{total - count:,} are the base model's own{kept}.",
    )


def _probe_guess(run: FinishedRun) -> Guess | None:
    split = run.record.per_class_split
    found, probe = run.record.metrics.get(split), run.record.baselines.get("linear_probe", {})
    if found is None or "accuracy" not in probe or "accuracy" not in found.values:
        return None
    right, ours = round(probe["accuracy"] * found.images), round(found.values["accuracy"] * found.images)
    low, high = wilson_interval(right, found.images)
    return Guess(
        f"Of {found.images:,} {split} images this model has {ours:,} right. How many does a linear probe have right: "
        "a new head on the base model's features, with nothing else trained?",
        found.images,
        "",
        right,
        max(1, 0.05 * found.images),
        f"measured were {right:,} of {found.images:,} {split} images (95 % interval {low:.0%} to {high:.0%})",
        f"What lies between {right:,} and {ours:,} is what training the blocks brought, beyond a new head.",
    )


def _passes_question(run: FinishedRun) -> Question | None:
    images = run.record.data.counts.get("train", 0)
    epochs = math.ceil(sum(phase.epochs for phase in run.record.plan))
    if not images or epochs < 2:  # in one epoch an image passes once, kept or not
        return None
    cache = run.record.cache
    cached = cache.mode != "off"
    right, other = (images, images * epochs) if cached else (images * epochs, images)
    why_other = (
        "That would be one pass in every epoch, as without the cache; but what was computed once was read from it."
        if cached
        else "That would be once for each image, as with a cache; but here nothing was kept."
    )
    values = sorted({right, other, 2 * images * epochs})
    found = (
        f" Of this run's images, {cache.hits:,} were even found in the cache of an earlier run." if cache.hits else ""
    )
    why = (
        f"The activations were kept ({cache.mode}), so an image passes the frozen part once, and each epoch reads them."
        + found
        if cached
        else f"Nothing was kept ({cache.reason_off or 'the cache was off'}), so each epoch computed it anew."
    )
    reasons = {right: "", other: why_other}
    return Question(
        f"It was trained for {count_of(epochs, 'epoch')} on {count_of(images, 'image')}, "
        f"{'with' if cached else 'without'} a cache of activations. At most how many passes of training images through "
        "its frozen part does that take?",
        tuple(f"{value:,}" for value in values),
        values.index(right),
        why,
        tuple(
            reasons.get(value, "No image passes twice in an epoch: a backward pass stops at the boundary.")
            for value in values
        ),
        own=True,
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else "nothing"
