"""The tabs Training and Compare: how runs went."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfft.inference.runs import confusion_counts, most_confident_mistakes
from hfft.report.plots import confusion_matrix
from hfft.space.models import Loaded
from hfft.space.service import NO_MODEL, Space
from hfft.space.views import html as views
from hfft.space.views.curves import curve_plot, curve_table, figure_image, split_curves
from hfft.space.widgets import BUTTONS, NameList, plainly

_NO_RECORD = "This model has no run record, so nothing is known of its training."


class TrainingTab:
    """Epochs, curves, confusion matrix and mistakes of the model that a visitor uses.

    Args:
        space: what answers.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        with gr.Tab("Training", id="training") as tab:
            table = gr.HTML(elem_id="epochs")
            with gr.Row():
                loss, accuracy = curve_plot("Loss (cross-entropy, nats)", "series"), curve_plot("Accuracy", "series")
            with gr.Row():
                matrix = gr.Image(
                    label="Confusion matrix",
                    show_label=False,  # the figure has a title
                    buttons=list(BUTTONS),
                    interactive=False,
                    format="png",
                    alt_text="Confusion matrix: true classes in rows, predicted classes in columns",
                )
                mistakes = gr.Gallery(
                    label="Most confident mistakes: true → predicted",
                    buttons=list(BUTTONS),
                    columns=3,
                    object_fit="contain",
                    height="auto",
                )
            note = gr.HTML()
            again = gr.Button("Read again")
        outputs = [table, loss, accuracy, matrix, mistakes, note]
        again.click(plainly(self.training), None, outputs, api_name="training")
        tab.select(plainly(self.training), None, outputs, api_visibility="private")

    def training(self, request: gr.Request) -> Any:
        """Answer with the table of epochs, two curves, the confusion matrix, the mistakes and a note on them."""
        session = self.space.session(request.session_hash)
        run = self.space.run(session)
        if run is None:
            text = _NO_RECORD if self.space.current(session) else NO_MODEL
            return views.empty(text), None, None, None, [], ""
        loaded = self.space.loaded(session)
        answers, labels = loaded.answers(), run.record.data.labels
        matrix = figure_image(confusion_matrix(confusion_counts(answers, labels), labels)) if answers else None
        head = views.epochs(run) if run.rows else views.empty("This model came without its trace of epochs.")
        return (
            head + views.saved(run, self.space.prefix_seconds(session)),
            *split_curves(run.rows),
            matrix,
            *_mistakes(loaded),
        )


class CompareTab:
    """Runs side by side.

    Args:
        space: what answers.
        image: the image that every run is asked about.
    """

    def __init__(self, space: Space, image: gr.Image) -> None:
        self.space = space
        with gr.Tab("Compare", id="compare") as tab:
            chosen = NameList([], label="Runs", info="Choose two or more", elem_id="runs")
            button = gr.Button("Compare", variant="primary")
            table = gr.HTML(elem_id="comparison")
            with gr.Row():
                accuracy, loss = curve_plot("Accuracy", "run"), curve_plot("Validation loss (nats)", "run")
        button.click(plainly(self.compare), [chosen, image], [table, accuracy, loss], api_name="compare")
        tab.select(self.offer, None, [chosen, table], api_visibility="private")

    def offer(self, request: gr.Request) -> Any:
        """Answer with the runs that there are, the newest two chosen."""
        names = self.space.choices(self.space.session(request.session_hash))
        return gr.update(choices=names, value=names[:2]), "" if names else views.empty(NO_MODEL)

    def compare(self, names: list[str], path: str | None, request: gr.Request) -> Any:
        """Answer with a table and two curves."""
        runs, answers = self.space.compare(self.space.session(request.session_hash), names or [], path)
        if not runs:
            return views.empty("Choose the runs to compare."), None, None
        rows = curve_table([(run.name, run.rows) for run in runs])
        hint = "" if path else "<p><small>Choose an image under Classify first.</small></p>"
        accuracy, loss = rows[rows["series"] == "accuracy"], rows[rows["series"] == "validation loss"]
        return views.comparison(runs, answers) + hint, accuracy, loss


def _mistakes(loaded: Loaded) -> tuple[list[Any], str]:
    """Return the surest mistakes with their images, and a note where there are none to show."""
    answers = loaded.answers()
    wrong = most_confident_mistakes(answers)
    if not wrong:
        return [], f"<p>No mistakes among {len(answers)} answers.</p>" if answers else ""
    pictures = []
    for answer in wrong:
        image = loaded.images.get(answer.file) if loaded.images is not None else None
        if image is not None:
            pictures.append((image, f"{answer.label} → {answer.prediction}, {answer.probability:.0%}"))
    return pictures, "" if pictures else "<p>The images of its mistakes are not here any more.</p>"
