"""The tab Training: how a run went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from hfft.errors import DataError, HfftError, ModelError
from hfft.inference.runs import Answer, FinishedRun, confusion_counts, worst_answers
from hfft.output_folder import EPOCH_ANSWERS
from hfft.report.plots import confusion_matrix
from hfft.space.models import Loaded
from hfft.space.pictures import address_of
from hfft.space.service import NO_MODEL, THUMBNAIL, Space
from hfft.space.tabs.before_after import BeforeAfter
from hfft.space.views import epochs as epoch_views
from hfft.space.views import html as views
from hfft.space.views.curves import curve_plot, figure_image, split_curves
from hfft.space.views.epochs import Watched, epochs_value, no_epochs, watched_rows
from hfft.space.widgets import BUTTONS, Tabs, plainly
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.trust.epoch_answers import MOST, read_epoch_answers

_PLAYER = Path(epoch_views.__file__)
_SIDE = 72  # pixels of a followed image's longer side, twice what is drawn
_NO_ANSWERS = (
    "This run came without its predictions by epoch, so there is nothing to slide over: it is of an earlier hfft, was "
    f"not evaluated, or has more than {MOST:,} of them. Train it again to have them."
)
_OF_ONE_LABEL = (
    "There is nothing to slide over: answers are kept for every epoch where an image has one label of several."
)
_MATRIX = "Confusion matrix: true classes in rows, predicted classes in columns"
_AGAINST = "Predicted against true numbers"
_PRESS = "press one to look inside it"
_NO_MISTAKES = "There are no mistakes among {:,} answers. Another model, chosen above, may have some to look at."
_NO_RECORD = "This model has no run record, so nothing is known of its training."


class TrainingTab:
    """Epochs, curves, confusion matrix and mistakes of the model that a visitor uses.

    Args:
        space: what answers.
        image: the picture that lands in the map of features.
        tabs: fills it.
    """

    def __init__(self, space: Space, image: gr.Image, tabs: Tabs) -> None:
        self.space = space
        with gr.Tab("Training", id="training") as tab:
            player = gr.HTML(
                no_epochs(""),
                html_template=_PLAYER.with_suffix(".html").read_text(encoding="utf-8"),
                js_on_load=_PLAYER.with_suffix(".js").read_text(encoding="utf-8"),
                label="Epoch by epoch",
                elem_id="player",
            )
            BeforeAfter(space, image, tab, tabs)
            table = gr.HTML(label="Epochs", elem_id="epochs")
            with gr.Row():
                loss = curve_plot("Loss (cross-entropy)")
                accuracy = curve_plot("Accuracy")
            with gr.Row():
                matrix = gr.Image(
                    label="Answers against the truth",
                    show_label=False,  # the figure has a title
                    buttons=list(BUTTONS),
                    interactive=False,
                    format="png",
                    visible=False,
                    alt_text=_MATRIX,
                    elem_id="answers",
                    elem_classes="hf-figure",
                )
                mistakes = gr.Gallery(
                    label=f"{SINGLE_LABEL.mistakes}; {_PRESS}",
                    allow_preview=False,
                    buttons=list(BUTTONS),
                    columns=6,
                    object_fit="contain",
                    height="auto",
                    visible=False,
                    elem_id="mistakes",
                    elem_classes="hf-gallery",
                )
            note = gr.HTML(label="Mistakes")
            again = gr.Button("Refresh", size="sm", elem_classes="hf-again")
            shown = gr.State([])  # the files of the mistakes
        outputs, hidden = [table, loss, accuracy, matrix, mistakes, note, shown], gr.update(visible=False)
        mistakes.select(plainly(self.look_at), [tabs.model, shown], image, api_visibility="private").success(
            None, None, None, js="() => {hfftOpen('trace')}", api_visibility="private"
        )
        # The files stay while the tab is emptied: a press on a mistake may be on its way.
        empty = ("", hidden, hidden, hidden, hidden, "", gr.skip())
        tabs.fill(tab, self.training, [tabs.model], outputs, empty, also=[again.click], api_name="training")
        tabs.fill(tab, self.by_epoch, [tabs.model], [player], (no_epochs(""),))

    def training(self, model: str | None, request: gr.Request) -> Any:
        """Answer with epochs, two curves, the confusion matrix, the mistakes, a note on them, and their files."""
        session, hidden = self.space.visits.of(request.session_hash), gr.update(visible=False)
        try:
            run = self.space.run(session, model)
        except ModelError:
            if model:
                raise
            return views.empty(NO_MODEL), hidden, hidden, hidden, hidden, "", []
        if run is None:
            return views.empty(_NO_RECORD), hidden, hidden, hidden, hidden, "", []
        loaded = self.space.loaded(session, model)
        answers = loaded.answers()
        matrix, why = _figure(run, answers)
        played = (run.folder / EPOCH_ANSWERS).exists()  # it shows the same curves and counts, for every epoch
        head = views.epochs(run) if run.rows else views.empty("This model came without its trace of epochs.")
        found, note = _mistakes(loaded)
        pictures = [(image, f"{answer.label} → {answer.prediction}" + _sure(answer)) for answer, image in found]
        return (
            head + views.saved(run, self.space.prefix_seconds(session, model)),
            *[_unless(played, plot) for plot in split_curves(run.rows)],
            _unless(played, gr.update(value=matrix, visible=matrix is not None, alt_text=_AGAINST if why else _MATRIX)),
            gr.update(value=pictures, visible=bool(pictures), label=f"{run.record.solved.mistakes}; {_PRESS}"),
            views.evaluated(run) + why + note,
            [answer.file for answer, _ in found],
        )

    def look_at(self, model: str | None, shown: list[str], chosen: gr.SelectData, request: gr.Request) -> str:
        """Answer with the image of the mistake that was pressed, as a file, for the tabs that follow one image."""
        session = self.space.visits.of(request.session_hash)
        loaded = self.space.loaded(session, model)
        image = loaded.images.get(shown[chosen.index]) if loaded.images and chosen.index < len(shown) else None
        if image is None:
            raise DataError("this mistake is not here any more; open the tab again")
        path = self.space.trainings.folder(session, "mistake") / "mistake.png"
        image.save(path)
        return str(path)

    def by_epoch(self, model: str | None, request: gr.Request) -> dict[str, Any]:
        """Answer with what the epoch slider draws."""
        session = self.space.visits.of(request.session_hash)
        loaded = self.space.loaded_if_any(session, model)
        if loaded is None:
            return no_epochs("")
        run = loaded.run
        if run is None:
            return no_epochs("")
        if not (run.folder / EPOCH_ANSWERS).exists():
            return no_epochs(_NO_ANSWERS if loaded.classifier.task.chooses else _OF_ONE_LABEL)
        try:
            answers, truth = read_epoch_answers(run.folder / EPOCH_ANSWERS)
        except HfftError as error:
            return no_epochs(f"There is no epoch to slide over: {error}.")
        watched = _watched(loaded, watched_rows(truth))
        best, temperature = run.record.best_epoch, loaded.classifier.temperature
        return epochs_value(answers, truth, run.record.data.labels, run.rows, watched, best, temperature)


def _figure(run: FinishedRun, answers: list[Answer]) -> tuple[Image.Image | None, str]:
    """Return the figure of all answers against the truth, and a line that says why it is not a confusion matrix."""
    labels, task = run.record.data.labels, run.record.solved
    if task.chooses:
        return (figure_image(confusion_matrix(confusion_counts(answers, labels), labels)) if answers else None), ""
    note = views.note("There is no confusion matrix: the model does not give an image one label of several.")
    drawn = next((run.folder / name for name in task.plots if (run.folder / name).is_file()), None)
    return (Image.open(drawn).convert("RGB") if drawn else None), note


def _unless(played: bool, shown: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown; hidden where the epoch slider shows it."""
    return {**shown, "visible": shown["visible"] and not played}


def _watched(loaded: Loaded, rows: Sequence[int]) -> list[Watched]:
    """Return the validation images that are followed, as far as they are still there."""
    files = [answer.file for answer in loaded.answers()]
    found = []
    for row in rows:
        image = loaded.images.get(files[row]) if loaded.images is not None and row < len(files) else None
        if image is not None:
            found.append(Watched(row, files[row].rpartition("/")[2], address_of(image, "JPEG", _SIDE)))
    return found


def _sure(answer: Answer) -> str:
    return f", {answer.probability:.0%}" if math.isfinite(answer.probability) else ""


def _mistakes(loaded: Loaded) -> tuple[list[tuple[Answer, Image.Image]], str]:
    """Return the answers that are most wrong with their images, and a note where there are none to show."""
    answers, found = loaded.answers(), []
    wrong = worst_answers(answers)
    if not wrong:
        return [], views.note(_NO_MISTAKES.format(len(answers))) if answers else ""
    for answer in wrong:
        image = loaded.images.get(answer.file, THUMBNAIL) if loaded.images is not None else None
        if image is not None:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            found.append((answer, image))
    return found, "" if found else "<p>The images of its mistakes are not here any more.</p>"
