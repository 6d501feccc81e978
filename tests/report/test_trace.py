"""The trace: what its sentences claim holds for the numbers, and it survives being written and read."""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfft.errors import HfftError, OutputError
from hfft.report.trace import LEVEL, EpochRow, best_row, epoch_table, near_chance, observe, read_trace, write_trace


def run(*figures: tuple[float, float, float], phase: str = "last_block") -> list[EpochRow]:
    """Rows of (training loss, validation loss, accuracy)."""
    return [EpochRow(i, phase, *figure, learning_rate=1e-3, seconds=2.5) for i, figure in enumerate(figures, 1)]


losses = st.floats(0.001, 20) | st.sampled_from([0.2, 0.2004, 0.3, 0.31])
accuracies = st.floats(0, 1) | st.sampled_from([0.9, 0.902, 0.95])
runs = st.lists(st.tuples(losses, losses, accuracies), min_size=1, max_size=8).map(lambda rows: run(*rows))
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)


def figures_in(sentence: str) -> list[float]:
    return [float(text) for text in re.findall(r"(?<![\w.])\d+\.\d+(?=\D|$)", sentence)]


@given(runs, st.sampled_from([None, 2, 10, 1000]))
def test_the_claim_holds(rows: list[EpochRow], classes: int | None) -> None:
    sentence = observe(rows, classes)
    row, earlier = rows[-1], rows[:-1]
    claim = sentence.split(":")[0]
    best_before = max((r.score for r in earlier), default=-1.0)
    if claim == "Nothing learned":
        assert classes is not None
        assert row.score < near_chance(classes)
    elif claim == "First epoch":
        assert not earlier
    elif claim == "Unstable":
        assert row.train_loss > earlier[-1].train_loss or row.eval_loss > earlier[-1].eval_loss
    elif claim == "Overfitting":
        length = int(re.findall(r"for (\d+) epochs", sentence)[0])
        stretch = rows[-length - 1 :]
        assert length >= 2
        assert all(b.train_loss < a.train_loss for a, b in pairwise(stretch))
        assert all(b.eval_loss > a.eval_loss for a, b in pairwise(stretch))
    elif claim == "Improving":
        assert row.score >= best_before + LEVEL
    elif claim == "Levelling off":
        assert abs(row.score - earlier[-1].score) < LEVEL
        assert row.score > max(best_before, row.score) - LEVEL
    elif claim == "Step back":
        assert row.score < earlier[-1].score
    else:
        assert claim == "No better"
        assert row.score < best_before + LEVEL


def test_the_best_of_equal_accuracies_is_the_epoch_whose_weights_are_kept() -> None:
    rows = run((1.0, 0.3, 0.9), (0.9, 0.2, 0.9), (0.8, math.nan, 0.9), (0.7, 0.2, 0.9))
    assert best_row(rows) is rows[1]


@given(runs)
def test_every_figure_named_is_one_of_the_run(rows: list[EpochRow]) -> None:
    known = {round(value, 3) for row in rows for value in (row.train_loss, row.eval_loss, row.score)}
    named = figures_in(observe(rows))
    assert named
    assert all(value in known | {LEVEL} for value in named)


@given(runs)
def test_words_of_rising_and_falling_are_true_of_the_figures_shown(rows: list[EpochRow]) -> None:
    sentence = observe(rows)
    for verb, old, new in re.findall(r"(rose|fell|jumped) (?:from )?\(?(\d+\.\d+) to (\d+\.\d+)", sentence):
        assert (float(new) < float(old)) == (verb == "fell")
        assert new != old
    if stays := re.search(r"stays at (\d+\.\d+)", sentence):
        assert f"{rows[-2].eval_loss:.3f}" == f"{rows[-1].eval_loss:.3f}" == stays[1]
    if "is the best so far" in sentence:
        assert best_row(rows) is rows[-1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (run((2.3, 2.3, 0.1)), "Nothing learned: accuracy 0.100 is below 0.15"),
        (run((1.0, 0.8, 0.7)), "First epoch: accuracy 0.700 at validation loss 0.800"),
        (
            run((1.0, 0.8, 0.7), (0.5, 0.5, 0.8)),
            "Improving: accuracy 0.800 is the best so far, up from 0.700 in epoch 1",
        ),
        (
            run((1.0, 0.8, 0.9), (0.5, 0.7, 0.902)),
            "Levelling off: accuracy 0.902, hardly changed from 0.900, is the best",
        ),
        (run((1.0, 0.8, 0.9), (0.5, 0.7, 0.9)), "Levelling off: accuracy 0.900, as before, is the best"),
        (run((1.0, 0.8, 0.9), (0.5, 0.7, 0.898)), "Levelling off: accuracy 0.898, hardly changed from 0.900, is close"),
        (run((1.0, 0.8, 0.9), (0.9, 0.7, 0.8)), "Step back: accuracy fell from 0.900 to 0.800"),
        (run((1.0, 0.5, 0.9), (0.9, 0.6, 0.91), (0.8, 0.7, 0.92)), "Overfitting: for 2 epochs the training loss fell"),
        (run((1.0, 0.8, 0.9), (0.9, 1.9, 0.8)), "Unstable: the validation loss jumped from 0.800 to 1.900."),
        (run((1.0, 0.8, 0.9), (0.9, math.nan, 0.9)), "Broken: the validation loss is nan"),
        (run((math.nan, 0.8, 0.7)), "First epoch: accuracy 0.700"),
        (
            run((1, 0.8, 0.9), (0.9, 0.7, 0.8), (0.8, 0.6, 0.85)),
            "No better: accuracy 0.850 is not above the best so far, 0.900",
        ),
        (
            run((1, 0.8, 0.9), (0.9, 0.7, 0.8), (0.8, 0.6, 0.902)),
            "No better: accuracy 0.902 is barely above the best so far, 0.900",
        ),
        (run((1.0, 0.8, math.nan), (0.9, 0.7, 0.8)), "Improving: accuracy 0.800 is the first that is a number."),
    ],
)
def test_observations(rows: list[EpochRow], expected: str) -> None:
    assert observe(rows, classes=10).startswith(expected)


def test_evaluations_need_not_be_those_of_epochs() -> None:
    rows = run((math.nan, 0.5, 0.9), (0.9, 0.6, 0.91), (0.8, 0.7, 0.92), (0.7, 0.8, 0.92))
    for number, row in enumerate(rows, 1):
        row.epoch = number / 4
    assert observe(rows[:1]) == "First evaluation, in epoch 0.25: accuracy 0.900 at validation loss 0.500."
    assert observe(rows).startswith("Overfitting: for 0.5 epochs")
    assert " - " in epoch_table(rows).splitlines()[2]


def test_a_jump_at_a_new_phase_says_so() -> None:
    rows = [*run((1.0, 0.8, 0.9), phase="head"), *run((1.9, 1.8, 0.9), phase="full")]
    assert observe(rows).startswith("Unstable: the validation loss jumped from 0.800 to 1.800")
    assert observe(rows).endswith("in the first epoch of phase full.")


def test_a_training_loss_is_not_compared_across_phases() -> None:
    rows = [*run((1.0, 0.8, 0.9), phase="head"), *run((1.9, 0.7, 0.9), phase="full")]
    assert observe(rows).startswith("Levelling off")


@given(st.lists(st.tuples(st.floats(), st.floats(), st.floats(), texts, texts), max_size=5))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[float, float, float, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    rows = [EpochRow(a, phase, b, c, a, b, c, words) for a, b, c, phase, words in values]
    write_trace(path, rows)
    # repr, since a NaN does not equal itself
    assert [repr(row) for row in read_trace(path)] == [repr(row) for row in rows]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column epoch"),
        (b"epoch,phase\n1,head\n", "no column train_loss"),
        (
            b"epoch,phase,train_loss,eval_loss,accuracy,learning_rate,seconds,observation\n1,a,x,1,1,1,1,b\n",
            "line 2: train_loss is 'x'",
        ),
        (b"epoch,phase,train_loss,eval_loss,accuracy,learning_rate,seconds,observation\n1,a\n", "train_loss is ''"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_malformed_trace(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(HfftError, match=message):
        read_trace(path)


def test_paths_that_refuse(tmp_path: Path) -> None:
    with pytest.raises(HfftError, match="cannot read"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(OutputError, match="cannot write"):
        write_trace(tmp_path / "none" / "trace.csv", [])


@given(runs, st.integers(60, 200), st.sampled_from(["utf-8", "ascii", "cp1252", "cp437", None]))
def test_table_fits_its_width_and_encoding(rows: list[EpochRow], width: int, encoding: str | None) -> None:
    for row in rows:
        row.observation = observe(rows[: rows.index(row) + 1])
    table = epoch_table(rows, width, encoding)
    table.encode(encoding or "ascii")
    assert max(map(len, table.splitlines())) <= width
    assert sum(f"{row.score:.4f}" in table for row in rows) == len(rows)


def test_table_marks_phases_and_draws_bars_to_scale() -> None:
    rows = [*run((1, 0.8, 0.5), (1, 0.4, 1.0), phase="head"), *run((1, 0.2, 0.25), phase="last_n:2")]
    lines = epoch_table(rows, 80, "ascii").splitlines()
    assert [line.split()[2] for line in lines if line.startswith("--")] == ["head", "last_n:2"]
    counts = [[len(bar) for bar in re.findall("#+", line)] for line in lines if "#" in line]
    assert counts == [[15, 8], [8, 15], [4, 4]]
    assert "█" in epoch_table(rows, 80, "utf-8")


def test_table_of_nothing_and_of_what_is_no_number() -> None:
    assert epoch_table([]).startswith(" epoch")
    assert "nan" in epoch_table(run((math.nan, math.inf, math.nan)))
