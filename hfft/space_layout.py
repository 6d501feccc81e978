"""The page: tabs, widgets, and which of them asks `hfft.space_handlers.Space` for what."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from html import escape
from typing import Any, Literal

import gradio as gr
from gradio.data_classes import ImageData

from hfft import space_views as views
from hfft.errors import HfftError
from hfft.figures import confusion_matrix
from hfft.quiz import GENERAL
from hfft.runs import confusion_counts, most_confident_mistakes
from hfft.space_figures import curve_plot, figure_image
from hfft.space_handlers import NO_MODEL, POLICIES, SOURCES, Session, Space, curve_table

BUTTONS: tuple[Literal["download", "fullscreen"], ...] = ("download", "fullscreen")
QUESTIONS = len(GENERAL) + 2
_NONE = "Choose an image under Classify first."


class ImageFile(gr.Image):
    """An image widget that hands over the file as it was uploaded; `hfft.uploads` opens it with care."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Any:
        """Return the file's path, unopened."""
        return payload.path if payload else None


class NameList(gr.CheckboxGroup):
    """Checkboxes whose choices grow while the page is open; the handlers hold each name against what there is."""

    is_template = True

    def preprocess(self, payload: list[str | int | float]) -> list[str]:  # type: ignore[override]
        """Return what was chosen."""
        return [str(name) for name in payload or []]


class Name(gr.Dropdown):
    """A dropdown of the same kind."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        """Return what was chosen."""
        return None if payload is None else str(payload)


def build(space: Space) -> gr.Blocks:
    """Return the page."""
    return _Page(space).blocks


def theme() -> gr.Theme:
    """Return the page's theme; it needs no font from elsewhere."""
    return gr.themes.Soft(
        primary_hue="blue", secondary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an HfftError into a message on the page; its text is shown as text, whatever names are in it."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any) -> Iterator[Any]:
            try:
                yield from function(*args)
            except HfftError as error:
                raise gr.Error(_sentence(error), print_exception=False) from error

        return stream

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except HfftError as error:
            raise gr.Error(_sentence(error), print_exception=False) from error

    return call


def _sentence(error: HfftError) -> str:
    text = str(error)
    return escape(text[:1].upper() + text[1:], quote=False)


class _Page:
    """Widgets that several tabs share, and the handlers between them."""

    def __init__(self, space: Space) -> None:
        self.space = space
        keep = space.options.keep_minutes * 60
        self.blocks: gr.Blocks
        with gr.Blocks(title="hfft", analytics_enabled=False, delete_cache=(min(keep, 600), keep)) as self.blocks:
            gr.Markdown("# hfft\nFine-tune an image classifier with most of it frozen, and see what that did.")
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    self.model = Name(
                        choices=space.choices(Session()),
                        value=space.current(Session()) or None,
                        label="Model",
                        info="Finished runs, newest first",
                        elem_id="model",
                    )
                with gr.Column(scale=2, min_width=300):
                    self.summary = gr.HTML(elem_id="summary")
            with gr.Tabs() as self.tabs:
                self._classify()
                self._pipeline()
                self._training()
                self._trace()
                self._compare()
                self._finetune()
                self._learn()
            self._start()
        self.blocks.queue(max_size=128, default_concurrency_limit=4)

    # Classify ------------------------------------------------------------------------------------------

    def _classify(self) -> None:
        space = self.space
        with gr.Tab("Classify", id="classify"):
            self.offer = gr.Button("Make a first model", variant="primary", visible=False)
            with gr.Row():
                with gr.Column():
                    self.image = ImageFile(
                        sources=["upload", "webcam", "clipboard"],
                        type="filepath",
                        image_mode=None,
                        label="Image",
                        height=320,
                        alt_text="The image that you chose",
                        elem_id="image",
                        elem_classes="hf-fit",
                    )
                    examples = space.examples()
                    if examples:
                        gr.Examples(
                            [[path] for path in examples], [self.image], label="Examples", api_visibility="private"
                        )
                    button = gr.Button("Classify", variant="primary", elem_id="classify-button")
                with gr.Column():
                    label = gr.Label(num_top_classes=5, label="Probabilities", elem_id="label")
                    picture = gr.Image(
                        label="Where the evidence lies",
                        interactive=False,
                        format="png",
                        height=320,
                        alt_text="The image under its class activation map; bright spots speak for the class",
                        elem_id="overlay",
                        buttons=list(BUTTONS),
                    )
                    opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity of the map")
                    about = Name([], label="Class to explain", info="By default the likeliest")
            with gr.Accordion("Many images at once", open=False):
                files = gr.File(file_count="multiple", label="Images", elem_id="batch")
                batch = gr.Button("Classify all")
                gallery = gr.Gallery(
                    label="Labelled images", buttons=list(BUTTONS), columns=4, object_fit="contain", height="auto"
                )
                rows = gr.HTML()
                sheet = gr.File(label="Table (CSV)", interactive=False)

        @plainly
        def classify(path: str | None, opacity: float, request: gr.Request) -> Any:
            session = space.session(request.session_hash)
            found, labels = space.classify(session, path)
            scores = {score.label: score.probability for score in found.top}
            return scores, space.overlay(session, opacity), gr.update(choices=labels, value=found.label)

        @plainly
        def explain(path: str | None, name: str | None, opacity: float, request: gr.Request) -> Any:
            session = space.session(request.session_hash)
            space.classify(session, path, name)
            return space.overlay(session, opacity)

        def blend(opacity: float, request: gr.Request) -> Any:
            return space.overlay(space.session(request.session_hash), opacity)

        @plainly
        def classify_batch(paths: list[str] | None, request: gr.Request) -> Any:
            found, pictures, path = space.classify_batch(space.session(request.session_hash), paths or [])
            cells = [(row.file, row.label, f"{row.probability:.1%}" if row.label else "", row.error) for row in found]
            return pictures, views.table(("file", "label", "probability", "problem"), cells, (2,)), str(path), None

        inputs, outputs = [self.image, opacity], [label, picture, about]
        button.click(classify, inputs, outputs, api_name="classify", concurrency_limit=2)
        self.image.input(_if_image(classify), inputs, outputs, api_visibility="private", show_progress="minimal")
        about.input(explain, [self.image, about, opacity], picture, api_name="explain")
        opacity.release(blend, opacity, picture, api_visibility="private", show_progress="hidden")
        batch.click(
            classify_batch, files, [gallery, rows, sheet, files], api_name="classify_batch", concurrency_limit=2
        )
        self.cleared = [label, picture, about]

    # Pipeline and prediction trace ----------------------------------------------------------------------

    def _pipeline(self) -> None:
        space = self.space
        with gr.Tab("Pipeline", id="pipeline") as tab:
            gr.Markdown("The five stages of the method, with the figures of this model and the image under Classify.")
            flow = gr.HTML(elem_id="flow")
            with gr.Row():
                before = gr.Image(
                    label="Before preprocessing",
                    interactive=False,
                    elem_classes="hf-fit",
                    buttons=list(BUTTONS),
                    height=260,
                    alt_text="The image as given",
                )
                after = gr.Image(
                    label="After preprocessing",
                    elem_classes="hf-fit",
                    buttons=list(BUTTONS),
                    interactive=False,
                    height=260,
                    alt_text="The image as the model sees it",
                )
            gr.Markdown("### Architecture")
            drawing = gr.HTML(elem_id="architecture")
            again = gr.Button("Measure again")

        @plainly
        def pipeline(path: str | None, request: gr.Request) -> Any:
            session = space.session(request.session_hash)
            if not space.current(session):
                return views.empty(NO_MODEL), None, None, ""
            loaded = space.loaded(session)
            trace = loaded.pipeline(space.image(path or _first(space.examples())))
            return views.flow(trace), trace.image, trace.seen, views.architecture(trace, loaded.classifier.name)

        outputs = [flow, before, after, drawing]
        again.click(pipeline, self.image, outputs, api_name="pipeline")
        tab.select(pipeline, self.image, outputs, api_visibility="private")

    def _trace(self) -> None:
        space = self.space
        with gr.Tab("Prediction trace", id="trace") as tab:
            gr.Markdown("The image under Classify, followed through the model in five steps.")
            steps = gr.HTML(elem_id="steps")
            again = gr.Button("Follow again")

        @plainly
        def trace(path: str | None, request: gr.Request) -> Any:
            session = space.session(request.session_hash)
            if not space.current(session):
                return views.empty(NO_MODEL)
            return views.steps(space.loaded(session).trace(space.image(path or _first(space.examples()))))

        again.click(trace, self.image, steps, api_name="trace")
        tab.select(trace, self.image, steps, api_visibility="private")

    # Training and comparison ----------------------------------------------------------------------------

    def _training(self) -> None:
        space = self.space
        with gr.Tab("Training", id="training") as tab:
            table = gr.HTML(elem_id="epochs")
            with gr.Row():
                loss, accuracy = curve_plot("Loss (cross-entropy, nats)", "series"), curve_plot("Accuracy", "series")
            with gr.Row():
                matrix = gr.Image(
                    label="Confusion matrix",
                    buttons=list(BUTTONS),
                    interactive=False,
                    format="png",
                    alt_text="Confusion matrix: true classes in rows, predicted classes in columns",
                )
                mistakes = gr.Gallery(
                    label="Most confident mistakes",
                    buttons=list(BUTTONS),
                    columns=3,
                    object_fit="contain",
                    height="auto",
                )
            note = gr.HTML()
            again = gr.Button("Read again")

        @plainly
        def training(request: gr.Request) -> Any:
            session = space.session(request.session_hash)
            run = space.run(session)
            if run is None:
                text = "This model has no run record, so nothing is known of its training."
                return views.empty(text if space.current(session) else NO_MODEL), None, None, None, [], ""
            return _training_results(space, session)

        outputs = [table, loss, accuracy, matrix, mistakes, note]
        again.click(training, None, outputs, api_name="training")
        tab.select(training, None, outputs, api_visibility="private")

    def _compare(self) -> None:
        space = self.space
        with gr.Tab("Compare", id="compare") as tab:
            chosen = NameList([], label="Runs", info="Choose two or more", elem_id="runs")
            button = gr.Button("Compare", variant="primary")
            table = gr.HTML(elem_id="comparison")
            with gr.Row():
                accuracy, loss = curve_plot("Accuracy", "run"), curve_plot("Validation loss (nats)", "run")

        def offer(request: gr.Request) -> Any:
            names = space.choices(space.session(request.session_hash))
            return gr.update(choices=names, value=names[:2]), views.empty(NO_MODEL) if not names else ""

        @plainly
        def compare(names: list[str], path: str | None, request: gr.Request) -> Any:
            runs, answers = space.compare(space.session(request.session_hash), names or [], path)
            if not runs:
                return views.empty("Choose the runs to compare."), None, None
            rows = curve_table([(run.name, run.rows) for run in runs])
            table = views.comparison(runs, answers) + ("" if path else f"<p><small>{_NONE}</small></p>")
            return table, rows[rows["series"] == "accuracy"], rows[rows["series"] == "validation loss"]

        button.click(compare, [chosen, self.image], [table, accuracy, loss], api_name="compare")
        tab.select(offer, None, [chosen, table], api_visibility="private")

    # Fine-tune and learn ---------------------------------------------------------------------------------

    def _finetune(self) -> None:
        space, limits = self.space, self.space.limits
        with gr.Tab("Fine-tune", id="finetune"):
            gr.Markdown(
                f"Train on your own images: at most {limits.images:,} images in {limits.classes} classes, "
                f"{limits.megabytes} MB and {space.options.max_minutes:g} minutes. They are removed when training ends."
            )
            source = gr.Radio(list(SOURCES), value=SOURCES[0], label="Images", elem_id="source")
            archive = gr.File(file_types=[".zip"], label="Zip file: one folder of images for each class", elem_id="zip")
            with gr.Group(visible=False) as by_class:
                name = gr.Textbox(label="Class name", max_length=60, elem_id="class-name")
                files = gr.File(file_count="multiple", label="Images of this class", elem_id="class-files")
                with gr.Row():
                    add, clear = gr.Button("Add to this class"), gr.Button("Remove all")
                staged = gr.Textbox("No files yet.", label="Classes so far", interactive=False, elem_id="staged")
            with gr.Row():
                policy = gr.Dropdown(list(POLICIES), value=POLICIES[0], label="What is trained", elem_id="policy")
                epochs = gr.Slider(1, space.options.max_epochs, 3, step=1, label="Epochs", elem_id="epoch-count")
            with gr.Row():
                start = gr.Button("Start training", variant="primary", elem_id="start")
                stop = gr.Button("Cancel", variant="stop", elem_id="cancel")
            status = gr.HTML(views.empty("Nothing is training yet."), elem_id="status")
            with gr.Row():
                loss = curve_plot("Loss (cross-entropy, nats)", "series", visible=False)
                accuracy = curve_plot("Accuracy", "series", visible=False)
            get = gr.Button("Prepare download", visible=False, elem_id="get")
            model = gr.File(label="Model as a zip", interactive=False, visible=False)

        @plainly
        def finetune(where: str, path: str | None, what: str, count: float, request: gr.Request) -> Iterator[Any]:
            session = space.session(request.session_hash)
            epochs, left = 0, None  # what was uploaded is gone once the training has it
            for now in space.follow(session, space.start(session, where, path, what, count)):
                rows = curve_table([("now", now.rows)])
                drawn = len(now.rows) != epochs or now.ended
                epochs = len(now.rows)
                curves = (
                    (
                        gr.update(value=rows[rows["series"] != "accuracy"], visible=bool(epochs)),
                        gr.update(value=rows[rows["series"] == "accuracy"], visible=bool(epochs)),
                    )
                    if drawn
                    else (gr.skip(), gr.skip())
                )
                chooser = (
                    gr.update(choices=space.choices(session), value=space.current(session))
                    if now.state == "done"
                    else gr.skip()
                )
                yield views.progress(now), *curves, chooser, gr.update(visible=session.own is not None), left
                left = gr.skip()

        @plainly
        def add_files(name: str, paths: list[str] | None, request: gr.Request) -> Any:
            return space.add_files(space.session(request.session_hash), name, paths or []), "", None

        def clear_files(request: gr.Request) -> str:
            return space.clear_files(space.session(request.session_hash))

        def cancel(request: gr.Request) -> Any:
            session = space.session(request.session_hash)
            if session.training is None:
                return views.empty("Nothing is training.")
            space.trainings.cancel(session.training)
            return views.progress(session.training)

        @plainly
        def download(request: gr.Request) -> Any:
            return gr.update(value=str(space.download(space.session(request.session_hash))), visible=True)

        def show(where: str) -> Any:
            return gr.update(visible=where == SOURCES[0]), gr.update(visible=where == SOURCES[1])

        source.input(show, source, [archive, by_class], api_visibility="private", show_progress="hidden")
        add.click(add_files, [name, files], [staged, name, files], api_name="add_files")
        clear.click(clear_files, None, staged, api_name="clear_files")
        start.click(
            finetune,
            [source, archive, policy, epochs],
            [status, loss, accuracy, self.model, get, archive],
            api_name="finetune",
            trigger_mode="multiple",  # a cancelled training may still be leaving when the next one is started
            concurrency_limit=space.options.max_waiting + 2,
            show_progress="hidden",
        ).then(self._facts, None, self.summary, api_visibility="private")
        stop.click(cancel, None, status, api_name="cancel", concurrency_limit=None, show_progress="hidden")
        get.click(download, None, model, api_name="download")
        self.source, self.archive, self.by_class = source, archive, by_class

    def _learn(self) -> None:
        space = self.space
        asked: list[Any] = []
        with gr.Tab("Learn", id="learn") as tab:
            gr.Markdown(LESSON)
            for number in range(QUESTIONS):
                with gr.Group():
                    choices = gr.Radio(
                        [],
                        label=f"Question {number + 1}",
                        elem_id=f"question-{number + 1}",
                        elem_classes="hf-quiz",
                    )
                    check = gr.Button("Check", size="sm", elem_id=f"check-{number + 1}")
                verdict = gr.Markdown(elem_id=f"verdict-{number + 1}")
                asked += [choices, check, verdict]
                check.click(_judging(space, number), choices, verdict, api_visibility="private", show_progress="hidden")
            number_box, choice_box, text_box = (
                gr.Number(visible=False),
                gr.Textbox(visible=False),
                gr.Textbox(visible=False),
            )
            hidden, listing = gr.Button(visible=False), gr.JSON(visible=False)

        def questions(request: gr.Request) -> Any:
            quiz = space.quiz(space.session(request.session_hash))
            updates: list[Any] = []
            for place in range(QUESTIONS):
                there = place < len(quiz)
                label = f"{place + 1}. {quiz[place].text}" if there else ""
                choices = list(quiz[place].choices) if there else []
                updates += [gr.update(label=label, choices=choices, value=None, visible=there)]
                updates += [gr.update(visible=there), ""]
            return updates

        def answer(number: float, choice: str, request: gr.Request) -> str:
            return str(_judging(space, int(number) - 1)(choice, request))

        def quiz(request: gr.Request) -> Any:
            return [
                {"number": place, "question": item.text, "choices": item.choices, "own": item.own}
                for place, item in enumerate(space.quiz(space.session(request.session_hash)), start=1)
            ]

        tab.select(questions, None, asked, api_visibility="private", show_progress="hidden")
        hidden.click(answer, [number_box, choice_box], text_box, api_name="answer")
        hidden.click(quiz, None, listing, api_name="quiz")

    # All tabs --------------------------------------------------------------------------------------------

    def _facts(self, request: gr.Request) -> str:
        session = self.space.session(request.session_hash)
        name = self.space.current(session)
        if not name:
            return views.empty(NO_MODEL)
        try:
            return views.summary(self.space.run(session), name)
        except HfftError as error:
            return views.empty(f"{name} cannot be used: {error}")

    def _start(self) -> None:
        space = self.space

        def begin(request: gr.Request) -> Any:
            session = space.session(request.session_hash)
            names = space.choices(session)
            chooser = gr.update(choices=names, value=space.current(session) or None)
            return chooser, self._facts(request), gr.update(visible=not names)

        @plainly
        def choose(name: str, request: gr.Request) -> Any:
            session = space.session(request.session_hash)
            space.choose(session, name)
            return self._facts(request), None, None, gr.update(choices=[], value=None)

        def make_one() -> Any:
            return gr.update(selected="finetune"), SOURCES[2], gr.update(visible=False), gr.update(visible=False)

        def models(request: gr.Request) -> list[str]:
            return space.choices(space.session(request.session_hash))

        def leave(request: gr.Request) -> None:
            space.leave(request.session_hash)

        self.blocks.load(begin, None, [self.model, self.summary, self.offer], api_visibility="private")
        self.model.input(choose, self.model, [self.summary, *self.cleared], api_name="choose_model")
        self.offer.click(
            make_one, None, [self.tabs, self.source, self.archive, self.by_class], api_visibility="private"
        )
        listing = gr.JSON(visible=False)
        gr.Button(visible=False).click(models, None, listing, api_name="models")
        self.blocks.unload(leave)


LESSON = """### Fine-tuning with most of the model frozen
A pretrained model already knows edges, textures and shapes. **Frozen**, its early blocks stay as they are, to the
last bit: parameters and running statistics alike. Only the **last block** and a new **head** learn your classes.

What is frozen gives the same activations for the same image every time. So each image passes the frozen part **once**;
its activations are kept at the boundary, and every epoch trains on those.

### Quiz
The last two questions are about the model that is loaded."""


def _judging(space: Space, number: int) -> Callable[..., Any]:
    """Return what judges the answer to one question, counted from 0."""

    def judge(choice: str | None, request: gr.Request) -> str:
        questions = space.quiz(space.session(request.session_hash))
        if not 0 <= number < len(questions):
            return f"There is no question {number + 1}; there are {len(questions)}."
        return questions[number].judge(choice)

    return judge


def _if_image(classify: Callable[..., Any]) -> Callable[..., Any]:
    """Classify as soon as an image is there; an image taken away clears the results."""

    def changed(path: str | None, opacity: float, request: gr.Request) -> Any:
        return classify(path, opacity, request) if path else (None, None, gr.update(choices=[], value=None))

    return changed


def _first(paths: list[str]) -> str | None:
    return paths[0] if paths else None


def _training_results(space: Space, session: Session) -> tuple[Any, ...]:
    loaded = space.loaded(session)
    run = loaded.run
    assert run is not None
    answers = loaded.answers()
    labels = run.record.data.labels
    rows = curve_table([(run.name, run.rows)])
    matrix = figure_image(confusion_matrix(confusion_counts(answers, labels), labels)) if answers else None
    pictures = []
    if loaded.images is not None:
        for wrong in most_confident_mistakes(answers):
            image = loaded.images.get(wrong.file)
            if image is not None:
                pictures.append((image, f"{wrong.label} taken for {wrong.prediction}, {wrong.probability:.0%}"))
    note = "" if pictures else "<p>The images of its mistakes are not here any more.</p>"
    head = views.epochs(run.rows) if run.rows else views.empty("This model came without its trace of epochs.")
    return (
        head + views.saved(run, space.prefix_seconds(session)),
        rows[rows["series"] != "accuracy"],
        rows[rows["series"] == "accuracy"],
        matrix,
        pictures,
        note,
    )
