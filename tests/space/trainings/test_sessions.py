"""Whose session a page belongs to."""

from __future__ import annotations

from hfft.space.trainings.sessions import Session, Visits


def test_a_choice_that_was_made_before_the_visit_was_known_counts() -> None:
    ended: list[Session] = []
    visits = Visits(60, ended.append)
    first = visits.of("page")
    first.source = "files"
    assert visits.join("reload", first.id).source == "files"
    visits.of("quick").source = "zip"
    assert visits.join("quick", first.id) is first
    assert first.source == "zip"


def test_calls_without_a_page_share_no_visit() -> None:
    visits = Visits(60, lambda session: None)
    assert visits.of(None) is not visits.of(None)
