"""The cards of the classes."""

from __future__ import annotations

from hfft.space.views.cards import FEW, ClassCard, class_cards


def test_a_class_of_few_images_is_warned_of() -> None:
    few, enough = (class_cards([ClassCard("cat", {"train": count})]) for count in (FEW - 1, FEW))
    assert f"only {FEW - 1}" in few
    assert "only" not in enough


def test_the_counts_of_each_split_are_told() -> None:
    assert "12 images, 5 for validation" in class_cards([ClassCard("cat", {"train": 12, "validation": 5})])


def test_a_name_is_shown_as_text() -> None:
    assert "<script>" not in class_cards([ClassCard("<script>", {"train": 12})])


def test_without_images_it_says_what_to_do() -> None:
    assert "No images yet" in class_cards([])


def test_many_classes_are_cut_short_and_said_so() -> None:
    html = class_cards([ClassCard(str(number), {"train": 12}) for number in range(60)])
    assert "10 classes more" in html
