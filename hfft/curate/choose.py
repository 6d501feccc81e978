"""Which images to label next: those whose labels would teach the model most, no two of them the same lesson.

The chosen ones are to be near to as much as possible of what the model is unsure of; what labelled images are near to
does not count. That is facility location, weighted by uncertainty and chosen greedily (after Wei, Iyer and Bilmes,
"Submodularity in data subset selection and active learning", ICML 2015). `scripts/bench_labels.py` measures it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hfft.arguments import CacheArguments, DataArguments, FeatureArguments, NextArguments
from hfft.cache.fill import OnFill, unheard
from hfft.curate.embed import readable
from hfft.curate.encoder import load_encoder, run_record
from hfft.curate.features import read_features
from hfft.curate.gather import UNLABELLED, Gathered, gather, gather_unlabelled, path_from, refuse_existing
from hfft.data.images import ImageSet
from hfft.errors import ArgumentError, DataError, HfftError, one_line
from hfft.files import cannot_write, write_whole
from hfft.metrics import probabilities as probabilities_of
from hfft.report.terminal import aligned
from hfft.tasks.contract import needs_one_label
from hfft.tasks.registry import task_of
from hfft.trust.calibration import temperature_of
from hfft.trust.known import unit_rows
from hfft.wording import count_of

ADVICE = (
    "Label them, in the column label of the list or as a folder for each class, and let them join: hfft extend RUN "
    "--dataset_name LIST --num_train_epochs 20."
)


CANDIDATES = 5_000
"""Of more images the most uncertain ones are looked at."""


@dataclass(frozen=True)
class Choice:
    """An image to be labelled.

    Args:
        rank: from 1, the first to be labelled.
        image: its file.
        prediction: the model's most probable label.
        probability: of that label, 0 to 1.
        margin: that probability less the one of the second label.
    """

    rank: int
    image: str
    prediction: str
    probability: float
    margin: float


@dataclass(frozen=True)
class Chosen:
    """The images to be labelled next.

    Args:
        model: that is to learn from them.
        images: how many there were to choose from.
        notes: what was left out.
        chosen: in order.
    """

    model: str
    images: int
    notes: tuple[str, ...]
    chosen: tuple[Choice, ...]


def choose_next(
    use: FeatureArguments,
    options: NextArguments,
    places: Sequence[str],
    say: Callable[[str], None],
    cache: CacheArguments | None = None,
    on_fill: OnFill = unheard,
) -> Chosen:
    """Choose unlabelled images for a finished run, and list them where ``options.output`` says.

    Args:
        use: the run.
        options: how many, and where they are listed.
        places: files, and folders with images in them and below.
        say: prints a line for the user.
        cache: where activations lie; by default where those of the run lie.
        on_fill: hears how many images have passed the frozen part, of how many.

    Raises:
        ArgumentError: the model is not a finished run.
        HfftError: images, model or file are not usable, and how to mend it.
    """
    target = refuse_existing(options.output)
    if use.model is None:
        raise ArgumentError("hfft next needs the finished run that is to learn: give its folder with --model")
    notes: list[str] = []
    gathered = readable(gather_unlabelled(places), notes.append)
    owned = _own_images(use.model, notes)
    gathered = _without_known(gathered, owned, notes)
    for note in notes:
        say(note)
    encoder = replace(load_encoder(use, cache), on_fill=on_fill)
    if not encoder.labels:
        raise ArgumentError(f"--model {use.model} is not a finished run: its head has not been trained on your classes")
    needs_one_label(task_of(encoder.model.config, encoder.name), "hfft next")
    labelled = {split: images for split, images in owned.items() if split != "test"}
    found = read_features(encoder, {**gathered.sets, **labelled}, [None], say)
    probabilities = probabilities_of(found[UNLABELLED].logits, temperature_of(encoder.model.config))
    known = np.concatenate([found[UNLABELLED].values[:0], *(found[split].values for split in labelled)])
    rows = most_teaching(found[UNLABELLED].values, probabilities, options.count, known)
    result = Chosen(
        encoder.name, len(probabilities), tuple(notes), _choices(gathered, rows, probabilities, encoder.labels)
    )
    if target is not None:
        _write(result, target)
    return result


def most_teaching(
    features: NDArray[np.float32], probabilities: NDArray[np.floating], count: int, labelled: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Choose rows one by one, each the one that brings all uncertain images nearest to a chosen or labelled one.

    An image weighs as much as the square of its uncertainty, 1 less the margin between its two most probable labels.

    Args:
        features: shape (images, features).
        probabilities: shape (images, labels).
        count: how many rows; all where there are fewer.
        labelled: features of images that have labels, shape (any number, features).

    Returns:
        Rows in the order of choice.
    """
    weights = (1 - margins(probabilities)) ** 2
    rows = np.sort(np.argsort(-weights, kind="stable")[: max(CANDIDATES, count)])
    unit, known, weights = unit_rows(features[rows]), unit_rows(labelled), weights[rows]
    cosines = unit @ unit.T
    reached = (unit @ known.T).max(axis=1) if len(known) else np.zeros(len(unit), np.float32)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        gains = weights @ np.maximum(cosines - reached[:, None], 0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        reached = np.maximum(reached, cosines[:, chosen[-1]])
    return rows[chosen]


def margins(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how much more probable the first label is than the second, shape (images,)."""
    best = np.sort(np.asarray(probabilities, np.float64), axis=1)[:, ::-1]
    return best[:, 0] - best[:, 1]


def _choices(
    gathered: Gathered, rows: NDArray[np.int64], probabilities: NDArray[np.float32], labels: tuple[str, ...]
) -> tuple[Choice, ...]:
    files, margin = gathered.splits[UNLABELLED].images.files, margins(probabilities)
    best = probabilities.argmax(axis=1)
    return tuple(
        Choice(rank, files[row], labels[best[row]], float(probabilities[row, best[row]]), float(margin[row]))
        for rank, row in enumerate(rows.tolist(), start=1)
    )


def _own_images(model: str, notes: list[str]) -> dict[str, ImageSet]:
    """Return the images of a run by split, those of its test as well, which must not be trained on."""
    record = run_record(model)
    if record is None:
        return {}
    try:
        gathered = gather(DataArguments(), model)
        skipping = record.arguments.get("on_bad_image") == "skip"
        sets = (readable(gathered, notes.append) if skipping else gathered).sets
        for images in sets.values():
            images.contents()
    except HfftError as error:
        notes.append(f"The run's own images do not count as labelled, since they cannot be read: {one_line(error)}")
        return {}
    return sets


def _without_known(gathered: Gathered, owned: dict[str, ImageSet], notes: list[str]) -> Gathered:
    """Leave out the images that the run has already."""
    known = {content for images in owned.values() for content in images.contents()}
    contents = gathered.sets[UNLABELLED].contents()
    rows = [row for row, content in enumerate(contents) if content not in known]
    if len(rows) < len(contents):
        notes.append(f"Left out: {count_of(len(contents) - len(rows), 'image')} that the run has already")
    if not rows:
        raise DataError(f"{gathered.name}: the run has every one of its images already; give others")
    return gathered.select({UNLABELLED: rows})


def chosen_json(chosen: Chosen) -> str:
    """Return the choice as JSON."""
    return json.dumps(asdict(chosen), indent=2, ensure_ascii=False)


def chosen_table(chosen: Chosen) -> str:
    """Return the choice for people."""
    lines = [
        f"{len(chosen.chosen):,} of {count_of(chosen.images, 'image')} for {chosen.model}, those first that teach most:"
    ]
    rows = [(str(each.rank), each.image, each.prediction, f"{each.probability:.2f}") for each in chosen.chosen]
    lines += aligned(("rank", "image", "prediction", "probability"), rows, words=(1, 2))
    return "\n".join([*lines, ADVICE])


def _write(chosen: Chosen, target: Path) -> None:
    text = chosen_json(chosen) + "\n" if target.suffix.lower() == ".json" else _csv(chosen, target)
    try:
        write_whole(target, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise cannot_write(target, error) from error


def _csv(chosen: Chosen, target: Path) -> str:
    """Return a list that hfft reads once its column ``label`` is filled in."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["rank", "image", "prediction", "probability", "margin", "label"])
    for each in chosen.chosen:
        writer.writerow(
            [
                each.rank,
                path_from(target, each.image),
                each.prediction,
                f"{each.probability:.4f}",
                f"{each.margin:.4f}",
                "",
            ]
        )
    return stream.getvalue()
