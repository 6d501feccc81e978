"""Runs in one plot: none hides another, and equal ones are named."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

pytest.importorskip("gradio", reason="the extra 'space' is not installed")

from hfft.space.views.curves import Line, lines_drawn

RISING, FALLING = ((1.0, 0.25), (2.0, 0.75)), ((1.0, 0.9), (2.0, 0.1))


def strokes(drawn: str) -> list[tuple[float, str]]:
    return [(float(w), d) for w, d in re.findall(r'<polyline .*?stroke-width="(.*?)" stroke-dasharray="(.*?)"', drawn)]


def test_equal_lines_are_all_seen_and_said() -> None:
    drawn = lines_drawn("Accuracy", [Line("<a>", RISING), Line("b", RISING), Line("c", FALLING)], share=True)
    widths = [width for width, _ in strokes(drawn)]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 3
    assert all(dashes != "none" for _, dashes in strokes(drawn)[1:])  # what lies above another lets it through
    assert "Equal in every epoch: &lt;a&gt; and b." in drawn
    assert "<a>" not in drawn


def test_lines_that_differ_are_not_called_equal() -> None:
    drawn = lines_drawn("Accuracy", [Line("a", RISING), Line("b", (*RISING[:1], (2.0, 0.7501)))], share=True)
    assert "Equal" not in drawn


def test_what_runs_are_held_against_is_dashed_otherwise_and_may_be_equal_too() -> None:
    probe, guess = (Line(name, ((1.0, 0.5), (2.0, 0.5)), level=True) for name in ("the linear probe", "guessing"))
    drawn = lines_drawn("Accuracy", [Line("a", RISING), probe, guess], share=True)
    assert len(set(strokes(drawn))) == 3
    assert "the linear probe and guessing" in drawn


@pytest.mark.parametrize("lines", [[], [Line("a", ())], [Line("a", RISING[:1]), Line("b", RISING[:1])]])
def test_one_epoch_makes_no_line(lines: Sequence[Line]) -> None:
    assert not lines_drawn("Accuracy", lines, share=True)


def test_values_lie_where_the_axis_says() -> None:
    drawn = lines_drawn("Loss", [Line("a", ((0.5, 4.0), (1.0, 2.0), (3.0, 0.0)))])
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="(.*?)"', drawn)[0].split()]
    grid = [float(y) for y in re.findall(r'class="grid".*?y1="(.*?)"', drawn)]
    assert [y for _, y in points] == grid[::-1]  # 4, 2 and 0 are the top, the middle and the foot
    assert re.findall(r'text-anchor="end">(.*?)<', drawn) == ["0", "2", "4"]
    assert re.findall(r'text-anchor="middle">(.*?)<', drawn) == ["1", "3"]  # whole epochs alone
