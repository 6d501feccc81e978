"""The tab Learn: the method in a few lines, and a quiz."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfft.space.quiz import GENERAL
from hfft.space.service import Space

QUESTIONS = len(GENERAL) + 2
LESSON = """### Fine-tuning with most of the model frozen
A pretrained model already knows edges, textures and shapes. **Frozen**, its early blocks stay as they are, to the
last bit: parameters and running statistics alike. Only the **last block** and a new **head** learn your classes.

What is frozen gives the same activations for the same image every time. So each image passes the frozen part **once**;
its activations are kept at the boundary, and every epoch trains on those.

### Quiz
The last two questions are about the model that is loaded."""


class LearnTab:
    """Questions with an explanation for every answer.

    Args:
        space: what answers.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        with gr.Tab("Learn", id="learn") as tab:
            gr.Markdown(LESSON)
            asked = [widget for number in range(QUESTIONS) for widget in self._question(number)]
            self._for_programs()
        tab.select(self.questions, None, asked, api_visibility="private", show_progress="hidden")

    def _question(self, number: int) -> tuple[Any, ...]:
        with gr.Group():
            choices = gr.Radio(
                [], label=f"Question {number + 1}", elem_id=f"question-{number + 1}", elem_classes="hf-quiz"
            )
            check = gr.Button("Check", size="sm", elem_id=f"check-{number + 1}")
        verdict = gr.Markdown(elem_id=f"verdict-{number + 1}")

        def judge(choice: str | None, request: gr.Request) -> str:
            return self.answer(number + 1, choice, request)

        check.click(judge, choices, verdict, api_visibility="private", show_progress="hidden")
        return choices, check, verdict

    def _for_programs(self) -> None:
        number, choice, text = gr.Number(visible=False), gr.Textbox(visible=False), gr.Textbox(visible=False)
        button, listing = gr.Button(visible=False), gr.JSON(visible=False)
        button.click(self.answer, [number, choice], text, api_name="answer")
        button.click(self.quiz, None, listing, api_name="quiz")

    def questions(self, request: gr.Request) -> Any:
        """Answer with the questions about the method and the model in use, none of them answered."""
        quiz = self.space.quiz(self.space.session(request.session_hash))
        updates: list[Any] = []
        for place in range(QUESTIONS):
            there = place < len(quiz)
            label = f"{place + 1}. {quiz[place].text}" if there else ""
            choices = list(quiz[place].choices) if there else []
            updates += [gr.update(label=label, choices=choices, value=None, visible=there)]
            updates += [gr.update(visible=there), ""]
        return updates

    def answer(self, number: float, choice: str | None, request: gr.Request) -> str:
        """Say whether a choice is right, and why; questions count from 1."""
        questions = self.space.quiz(self.space.session(request.session_hash))
        if not 1 <= number <= len(questions):
            return f"There is no question {number:g}; there are {len(questions)}."
        return questions[int(number) - 1].judge(choice)

    def quiz(self, request: gr.Request) -> Any:
        """Answer with all questions and their choices."""
        return [
            {"number": place, "question": item.text, "choices": item.choices, "own": item.own}
            for place, item in enumerate(self.space.quiz(self.space.session(request.session_hash)), start=1)
        ]
