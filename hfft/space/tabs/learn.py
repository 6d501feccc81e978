"""The tab Learn: the method in three registers, and a quiz that asks before it shows."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from hfft.errors import HfftError
from hfft.output_folder import EPOCH_ANSWERS
from hfft.space.models import Loaded
from hfft.space.quiz import GENERAL, OWN, Guess, Item, Verdict
from hfft.space.service import Space
from hfft.space.trainings.sessions import Session
from hfft.space.views.lesson import REGISTERS, Told, insight, lesson
from hfft.space.widgets import Tabs, plainly
from hfft.trust.epoch_answers import read_epoch_answers

QUESTIONS = len(GENERAL) + OWN
_JUDGED: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "always_last",  # a verdict is about the answer that is ticked
    "concurrency_id": "quiz",  # one at a time, since each reads and writes the marks of all questions
    "concurrency_limit": 1,
}

Marks = dict[int, bool]
"""By the question's number, whether the first answer was right; later ones do not count."""


class LearnTab:
    """The method told with the loaded model's figures, and questions with an explanation for every answer.

    Args:
        space: what answers.
        tabs: fills it.
    """

    def __init__(self, space: Space, tabs: Tabs) -> None:
        self.space = space
        self.model = tabs.model
        with gr.Tab("Learn", id="learn") as tab:
            register = gr.Radio(list(REGISTERS), value=REGISTERS[0], label="Told", elem_id="register")
            told = gr.HTML(lesson(REGISTERS[0], Told(None)), label="Lesson", elem_id="lesson")
            gr.Markdown("## Quiz\nChoose or guess first; what is right, or was measured, is shown after that.")
            about = gr.State("")  # the model that the last questions are about
            self.marks = gr.State({})
            slots = [_slot(number) for number in range(1, QUESTIONS + 1)]
            self.score = gr.HTML(label="Score", elem_id="score")
        for number, slot in enumerate(slots, start=1):
            self._wire(number, *slot)
        outputs = [about, self.marks, self.score, *(widget for slot in slots for widget in slot)]
        tabs.fill(tab, self.questions, [tabs.model, about], outputs, [gr.skip()] * len(outputs))
        empty = (lesson(REGISTERS[0], Told(None)),)
        tabs.fill(tab, self.lesson, [register, tabs.model], [told], empty, also=[register.input])

    def _wire(self, number: int, choices: gr.Radio, guess: gr.Slider, show: gr.Button, verdict: gr.HTML) -> None:
        """Let a question be answered."""

        def judge(answer: Any, model: str | None, marks: Marks, request: gr.Request) -> Any:
            return self.judged(number, answer, model, marks, request)

        outputs = [verdict, self.marks, self.score]
        choices.input(plainly(judge), [choices, self.model, self.marks], outputs, **_JUDGED)
        show.click(plainly(judge), [guess, self.model, self.marks], outputs, **_JUDGED)
        guess.input(None, None, verdict, js="() => ''")  # a verdict is about the guess that it judged

    def questions(self, model: str | None, about: str, request: gr.Request) -> Any:
        """Answer with the questions, none of them answered; those that stand there already stay as they are."""
        name = model or "no model"
        if name == about:
            return [gr.skip()] * (3 + 4 * QUESTIONS)
        quiz = self.space.quiz(self.space.visits.of(request.session_hash), model)
        updates: list[Any] = [name, {}, _score({}, len(quiz))]
        for place in range(QUESTIONS):
            updates += _shown(place + 1, quiz[place] if place < len(quiz) else None)
        return updates

    def judged(self, number: int, answer: Any, model: str | None, marks: Marks, request: gr.Request) -> Any:
        """Answer with the verdict, the marks and the score; after the last question with what it all comes to."""
        session = self.space.visits.of(request.session_hash)
        quiz = self.space.quiz(session, model)
        found = quiz[number - 1].grade(answer) if number <= len(quiz) else Verdict("There is no such question.", None)
        if found.right is not None:
            marks = {number: found.right} | marks
        score = _score(marks, len(quiz))
        if len(marks) == len(quiz):
            score += f'<p class="hf-key">{insight(self._told(session, model, follow=False))}</p>'
        return _verdict(found), marks, score

    def lesson(self, register: str, model: str | None, request: gr.Request) -> str:
        """Answer with the lesson."""
        return lesson(register, self._told(self.space.visits.of(request.session_hash), model))

    def _told(self, session: Session, model: str | None, follow: bool = True) -> Told:
        """Gather the figures of a model, and follow an image through it where that is wanted."""
        try:
            loaded = self.space.loaded(session, model)
            run = self.space.run(session, model)
            example = next(iter(self.space.examples(session, model)), None) if follow else None
            image = self.space.image(example[0], loaded.classifier.pixels.least) if example else None
            return Told(
                run,
                journey=loaded.journey(image) if image is not None else None,
                image=_which(loaded, example[1]) if example else "",
                spared=_spared(loaded),
                untrained=_untrained(loaded),
                temperature=loaded.classifier.temperature,
            )
        except HfftError:
            return Told(None)  # the method can be told without a model; why it cannot be used stands above

    def answer(self, number: int, choice: str, model: str, request: gr.Request) -> str:
        """Say whether an answer is right, and why; questions count from 1, and a guess is a number."""
        questions = self.space.quiz(self.space.visits.of(request.session_hash), model)
        if not 1 <= number <= len(questions):
            return f"There is no question {number:g}; there are {len(questions)}."
        return questions[int(number) - 1].grade(choice).text

    def quiz(self, model: str, request: gr.Request) -> list[dict[str, Any]]:
        """Answer with all questions: their choices, or up to where a guess may go; the last ones are about a model."""
        questions = self.space.quiz(self.space.visits.of(request.session_hash), model)
        return [
            {"number": place, "question": item.text, "own": item.own} | _asked(item)
            for place, item in enumerate(questions, start=1)
        ]


def _slot(number: int) -> tuple[gr.Radio, gr.Slider, gr.Button, gr.HTML]:
    """Make room for a question of either kind; return its widgets in the order in which they are filled."""
    with gr.Group():
        choices = gr.Radio([], label=f"Question {number}", elem_id=f"question-{number}", elem_classes="hf-quiz")
        guess = gr.Slider(0, 1, label=f"Question {number}", elem_id=f"guess-{number}", visible=False)
        show = gr.Button("Show what was measured", size="sm", elem_id=f"show-{number}", visible=False)
    # Beside the group: an empty one within it would be a grey bar.
    return choices, guess, show, gr.HTML(label=f"Verdict {number}", elem_id=f"verdict-{number}", padding=False)


def _asked(item: Item) -> dict[str, Any]:
    return {"most": item.most, "unit": item.unit} if isinstance(item, Guess) else {"choices": item.choices}


def _shown(number: int, item: Item | None) -> list[Any]:
    """Return what a question's widgets are filled with: choices, guess, button, verdict."""
    label = f"{number}. {item.text}" if item else ""
    if isinstance(item, Guess):
        guess = gr.update(label=label, value=0, maximum=item.most, step=1, visible=True)
        return [gr.update(visible=False), guess, gr.update(visible=True), ""]
    choices = list(item.choices) if item else []
    radio = gr.update(label=label, choices=choices, value=None, visible=item is not None)
    return [radio, gr.update(visible=False), gr.update(visible=False), ""]


def _verdict(found: Verdict) -> str:
    kind = {True: "right", False: "wrong", None: ""}[found.right]
    return f'<p role="status" class="hf-verdict {kind}">{escape(found.text)}</p>'


def _score(marks: Marks, questions: int) -> str:
    if not marks:
        return ""
    text = f"{sum(marks.values())} right at the first try, of {len(marks)} answered; there are {questions} questions."
    return f'<p role="status"><b>{text}</b></p>'


def _which(loaded: Loaded, label: str) -> str:
    """Say which image is followed: one of a class, or one with labels or numbers."""
    return f"a {label} of the evaluated images" if loaded.classifier.task.chooses else f"an evaluated image ({label})"


def _spared(loaded: Loaded) -> float | None:
    """Return the share of a pass's arithmetic that lies before the first trained part."""
    trained = {part.name for part in loaded.run.record.parts if part.trained} if loaded.run else set()
    try:
        parts = loaded.cuts().parts
    except HfftError:
        return None
    first = next((place for place, part in enumerate(parts) if part.name in trained), len(parts))
    return sum(part.flops for part in parts[:first]) / (sum(part.flops for part in parts) or 1)


def _untrained(loaded: Loaded) -> float | None:
    """Return the share of the validation images that were right before any training, where that was kept."""
    path = loaded.run.folder / EPOCH_ANSWERS if loaded.run else None
    if path is None or not path.exists():
        return None
    answers, truth = read_epoch_answers(path)
    if answers.epochs[:1] != [0.0]:
        return None
    return float((answers.logits[0].argmax(1) == truth).mean())
