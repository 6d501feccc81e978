"""`hfft evaluate --folds K`: how good a recipe is, by models that never saw what they are asked."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.arguments import RUN_ARGUMENTS, CheckpointArguments, EvaluateArguments
from hfft.bars import unsaid
from hfft.data.images import ImageSet
from hfft.errors import ArgumentError, DataError, one_line
from hfft.inference.evaluate import Evaluation, evaluate, make_evaluation_folder, write_evaluation
from hfft.jobs.advice.compare import cross_validated, folds_of
from hfft.jobs.advice.folds import Folds
from hfft.jobs.advise import with_all_images
from hfft.jobs.finetune import check_processes, set_up
from hfft.jobs.reproduce import content_hash, record_flags
from hfft.machine import keep_freed_memory, refuse_launcher
from hfft.metrics import WORDS
from hfft.output_folder import RECORD
from hfft.parsing import Place, parse, parse_keywords
from hfft.report.record import RunRecord, lost_images, read_record_here
from hfft.report.write import Evidence
from hfft.surroundings import undisturbed
from hfft.tasks.contract import Task
from hfft.training.setup import Settings, Setup


@undisturbed()
def evaluate_with(
    run: Place | None = None, /, *, say: Callable[[str], None] | None = print, **options: Any
) -> Evaluation:
    """Evaluate a finished model on labelled images and write metrics, predictions and plots; this is ``hfft.evaluate``.

    Args:
        run: the model, as ``model`` takes it.
        say: prints a line for the user, while ``folds`` are trained; None for silence.
        options: the flags of ``hfft evaluate`` under their own names, for example ``model``, ``validation_dir`` and
            ``output_dir``. Without images those count that the run itself was judged by: test, else validation.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: the model, the images or the folder are not usable, and how to mend it.

    Example:
        >>> evaluation = hfft.evaluate(model="outputs/photos", validation_dir="photos/test", output_dir="outputs/test")
        >>> evaluation.metrics.images, 0 <= evaluation.metrics.values["accuracy"] <= 1
        (6, True)
    """
    use, wanted = parse_keywords((CheckpointArguments, EvaluateArguments), options, "hfft.evaluate", model=run)
    return evaluate(use, wanted) if wanted.folds is None else evaluate_folds(use, wanted, say or unsaid)


def evaluate_folds(use: CheckpointArguments, options: EvaluateArguments, say: Callable[[str], None]) -> Evaluation:
    """Cross-validate the recipe of a finished run on its own images, and write the figures.

    Its policy and options are trained once for each fold, from the pretrained weights and on cached activations. A
    training makes all of its epochs and keeps its last weights: nothing is chosen on what is held out.

    Args:
        use: the run.
        options: how many folds, and where the results go.
        say: prints a line for the user.

    Raises:
        ArgumentError: that is not a run's folder, or there are fewer images than folds.
        HfftError: the run's images or base are not what or where they were, or files cannot be written.
    """
    file = Path(use.model or "").expanduser() / RECORD
    if not use.model or not file.is_file():
        raise ArgumentError(f"--folds needs the folder of a run, with its {RECORD}; {use.model} has none")
    refuse_launcher("hfft evaluate --folds")
    record, output = read_record_here(file), make_evaluation_folder(options)
    settings = Settings(*parse(RUN_ARGUMENTS, record_flags(record, use.trust_remote_code), "evaluate", ""))
    check_processes(settings.training)
    keep_freed_memory()
    assert options.folds is not None
    with tempfile.TemporaryDirectory(prefix="hfft-folds-") as folder:
        settings.training = copy.copy(settings.training)
        settings.training.output_dir, settings.training.report_to = folder, []
        given = _set_up(settings, str(use.model), record)
        changed = tuple(_changed(given, record))
        setup = with_all_images(given)
        parts = folds_of(setup.sets.train, options.folds, settings.training.seed)
        logits, probe = cross_validated(setup, parts, say)
    task, labels = setup.sets.task, setup.sets.labels
    judged = task.judge(logits, parts.labels, labels, options.top_k)
    notes = (*_notes(record, parts, logits, probe, task), *changed)
    evaluation = Evaluation(
        str(use.model),
        setup.sets.name,
        judged.metrics,
        judged.per_class,
        notes,
        selective=judged.selective,
        task=task.name,
    )
    write_evaluation(output, evaluation, Evidence(task, setup.sets.train, labels, logits))
    return evaluation


def _set_up(settings: Settings, run: str, record: RunRecord) -> Setup:
    try:
        return set_up(settings, test=False)
    except DataError as error:
        why = lost_images(record) or one_line(error)
        raise DataError(f"the images of {run} itself cannot be read here ({why})") from error


def _notes(
    record: RunRecord, parts: Folds, logits: NDArray[np.float32], probe: NDArray[Any], task: Task
) -> Iterator[str]:
    answers, labels = task.answers(logits), parts.labels
    each = [task.scored(answers[held_out], labels[held_out]).score for _, held_out in parts]
    yield (
        f"{len(each)}-fold cross-validation of its recipe ({record.policy}), each image by a model that never saw it; "
        f"{WORDS[task.metric].name} by fold {min(each):.3f} to {max(each):.3f}"
    )
    yield f"The linear probe on the same folds: {task.scored(probe, labels).score:.4f}"
    if record.best_epoch == 0:
        yield "The run itself handed back the weights from before training, which this does not choose"


def _changed(setup: Setup, record: RunRecord) -> Iterator[str]:
    """Say which images are no longer those of the run."""
    sets: dict[str, ImageSet] = {"train": setup.sets.train, "validation": setup.sets.validation}
    for split, images in sets.items():
        if split in record.data.sha256 and content_hash(images) != record.data.sha256[split]:
            yield f"The {split} images or labels are not those that the run had"
