"""The tab Learn: the method in a few lines, and a quiz."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfft.space.quiz import GENERAL
from hfft.space.service import Space
from hfft.space.widgets import Tabs, plainly

QUESTIONS = len(GENERAL) + 2
LESSON = """## Fine-tuning with most of the model frozen
A pretrained model already knows edges, textures and shapes. **Frozen**, its early blocks stay as they are, to the
last bit: parameters and running statistics alike. Only the **last block** and a new **head** learn your classes.

What is frozen gives the same activations for the same image every time. So each image passes the frozen part **once**;
its activations are kept at the boundary, and every epoch trains on those.

## Quiz
The last two questions are about the model that is loaded."""


class LearnTab:
    """Questions with an explanation for every answer.

    Args:
        space: what answers.
        tabs: fills it.
    """

    def __init__(self, space: Space, tabs: Tabs) -> None:
        self.space = space
        self.model = tabs.model
        with gr.Tab("Learn", id="learn") as tab:
            gr.Markdown(LESSON)
            about = gr.State("")  # the model that the last two questions are about
            asked = [widget for number in range(QUESTIONS) for widget in self._question(number)]
        outputs = [about, *asked]
        tabs.fill(tab, self.questions, [tabs.model, about], outputs, [gr.skip()] * len(outputs))

    def _question(self, number: int) -> tuple[Any, ...]:
        with gr.Group():
            choices = gr.Radio(
                [], label=f"Question {number + 1}", elem_id=f"question-{number + 1}", elem_classes="hf-quiz"
            )
            check = gr.Button("Check", size="sm", elem_id=f"check-{number + 1}")
        verdict = gr.Markdown(elem_id=f"verdict-{number + 1}")

        def judge(choice: str | None, model: str | None, request: gr.Request) -> str:
            return self.answer(number + 1, choice or "", model or "", request)

        check.click(plainly(judge), [choices, self.model], verdict, api_visibility="private", show_progress="hidden")
        choices.input(None, None, verdict, js="() => ''")  # a verdict is about the choice that it judged
        return choices, check, verdict

    def questions(self, model: str | None, about: str, request: gr.Request) -> Any:
        """Answer with the questions, none of them answered; those that stand there already stay as they are."""
        name = model or "no model"
        if name == about:
            return [gr.skip()] * (1 + 3 * QUESTIONS)
        quiz = self.space.quiz(self.space.visits.of(request.session_hash), model)
        updates: list[Any] = [name]
        for place in range(QUESTIONS):
            there = place < len(quiz)
            label = f"{place + 1}. {quiz[place].text}" if there else ""
            choices = list(quiz[place].choices) if there else []
            updates += [gr.update(label=label, choices=choices, value=None, visible=there)]
            updates += [gr.update(visible=there), ""]
        return updates

    def answer(self, number: int, choice: str, model: str, request: gr.Request) -> str:
        """Say whether a choice is right, and why; questions count from 1."""
        questions = self.space.quiz(self.space.visits.of(request.session_hash), model)
        if not 1 <= number <= len(questions):
            return f"There is no question {number:g}; there are {len(questions)}."
        return questions[int(number) - 1].grade(choice)

    def quiz(self, model: str, request: gr.Request) -> list[dict[str, Any]]:
        """Answer with all questions and their choices; the last two are about a model."""
        questions = self.space.quiz(self.space.visits.of(request.session_hash), model)
        return [
            {"number": place, "question": item.text, "choices": item.choices, "own": item.own}
            for place, item in enumerate(questions, start=1)
        ]
