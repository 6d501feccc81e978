"""A quiz on partial fine-tuning, two of its questions about the model that is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hfft.inference.runs import FinishedRun


@dataclass(frozen=True)
class Question:
    """One question with its choices.

    Args:
        text: the question.
        choices: what can be answered.
        answer: place of the right choice.
        explanation: why it is right, for everyone who answered.
        own: whether its figures are those of the loaded model.
    """

    text: str
    choices: tuple[str, ...]
    answer: int
    explanation: str
    own: bool = False

    def grade(self, choice: str | None) -> str:
        """Say whether a choice is right, and why."""
        if choice not in self.choices:
            return "Choose an answer first."
        right = self.choices.index(choice) == self.answer
        return f"{'Right.' if right else f'Not quite: {self.choices[self.answer]}.'} {self.explanation}"


GENERAL = (
    Question(
        "You have 300 images and a model pretrained on a million. Why freeze most of its layers?",
        (
            "Frozen layers make each prediction faster",
            "Early layers hold general features that 300 images can only spoil, and what is frozen is computed once",
            "A frozen model needs no labels",
        ),
        1,
        "Edges, textures and shapes serve nearly every task. With few images, training them all mostly fits noise; "
        "frozen, they also give the same activations every time, so one pass per image is enough. Prediction takes "
        "as long as before.",
    ),
    Question(
        "Every weight of a batch-norm layer is frozen, but the layer runs in train mode. What happens?",
        (
            "Nothing: frozen is frozen",
            "Its running mean and variance move with every batch, so the model changes all the same",
            "The layer is skipped",
        ),
        1,
        "The running statistics are buffers, not parameters: no gradient reaches them, and still each forward pass "
        "in train mode moves them. Frozen layers have to stay in eval mode, and hfft compares a hash of parameters "
        "and buffers before and after.",
    ),
    Question(
        "Only the head, or the last block as well?",
        (
            "Always the head: it is cheaper",
            "Always everything: more parameters learn more",
            "The head for very few images or a first look; the last block once there are some dozens per class",
        ),
        2,
        "A new head can only weigh the features that are there. The last block makes the most specialised features, "
        "those of the old task, and gains most from seeing the new images.",
    ),
    Question(
        "What must hold so that the frozen part's activations can be kept and used again?",
        (
            "The frozen part gives the same output for the same pixels: nothing in it changes, and nothing is random",
            "The images are all of one size",
            "The batch size stays the same",
        ),
        0,
        "Dropout, moving batch-norm statistics or fresh random crops would give other activations each time. That is "
        "why the frozen part is held in eval mode, and why augmentation is limited to a few seeded views per image.",
    ),
    Question(
        "When is it worth unfreezing more blocks?",
        (
            "When training accuracy is high and validation accuracy is low",
            "When there are many images, or they look unlike those of pretraining, and accuracy stays low on both",
            "Whenever there is time",
        ),
        1,
        "A gap between training and validation is overfitting, which more trainable parameters make worse. X-rays or "
        "drawings, unlike photographs, need other features earlier in the model.",
    ),
)


def make_quiz(run: FinishedRun | None) -> tuple[Question, ...]:
    """Return the questions: five general ones and, where there is a run, two about its own figures."""
    own = () if run is None else tuple(filter(None, (_share_question(run), _passes_question(run))))
    return (*GENERAL, *own)


def _share_question(run: FinishedRun) -> Question | None:
    total = sum(part.parameters for part in run.record.parts)
    if not total:
        return None
    trained = sum(part.trained for part in run.record.parts)
    share = trained / total
    others = sorted(
        {_percent(value) for value in (share / 6, (1 - share), 0.5 * (1 + share), 0.02)} - {_percent(share)}
    )
    choices = tuple(sorted({_percent(share), *others[:3]}, key=lambda text: float(text.rstrip(" %"))))
    return Question(
        f"This model has {total:,} parameters. What share of them did the policy {run.record.policy} train?",
        choices,
        choices.index(_percent(share)),
        f"{trained:,} of {total:,}: {_listed([part.name for part in run.record.parts if part.trained])}. "
        f"The other {total - trained:,} are the base model's own"
        + (", and a hash over them says so." if run.record.frozen and run.record.frozen.unchanged else "."),
        own=True,
    )


def _passes_question(run: FinishedRun) -> Question | None:
    images = run.record.data.counts.get("train", 0)
    epochs = math.ceil(sum(phase.epochs for phase in run.record.plan))
    if not images or not epochs:
        return None
    cache = run.record.cache
    cached = cache.mode != "off"
    right = images if cached else images * epochs
    options = {images, images * epochs, images * epochs * 2, max(images // 2, 1), images * (epochs + 3)}
    values = sorted([right, *[value for value in sorted(options) if value != right][:3]])
    choices = tuple(f"{value:,}" for value in values)
    found = (
        f" Of this run's images, {cache.hits:,} were even found in the cache of an earlier run." if cache.hits else ""
    )
    why = (
        f"The activations were kept ({cache.mode}), so an image passes the frozen part once, and each epoch reads them."
        + found
        if cached
        else f"Nothing was kept ({cache.reason_off or 'the cache was off'}), so each epoch computed it anew."
    )
    return Question(
        f"It was trained for {epochs} epoch{'s' if epochs > 1 else ''} on {images:,} images, "
        f"{'with' if cached else 'without'} a cache of activations. "
        "At most how many passes of training images through its frozen part does that take?",
        choices,
        choices.index(f"{right:,}"),
        why,
        own=True,
    )


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else "nothing"
