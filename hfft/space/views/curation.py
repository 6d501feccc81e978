"""What the tabs Labels and Label next show: a finding, the gallery of findings, and a photo to label."""

from __future__ import annotations

from html import escape

from hfft.curate.desk import KINDS
from hfft.space.curation.images import Pictures
from hfft.space.curation.review import Decision, Review
from hfft.space.views import html as views

WINDOW = 24
"""Findings that the gallery shows at a time."""
_LARGE, _NEAR, _SMALL = 360, 110, 72  # pixels of a picture's longer side

PICK = """if (!element.dataset.ready) {
  element.dataset.ready = "1";
  element.addEventListener("click", (event) => {
    const card = event.target.closest("[data-number]");
    if (card) trigger("select", { number: Number(card.dataset.number) });
  });
}"""
"""Tells which finding of the gallery was pressed."""

KEYS = """if (!window.hfftKeys) {
  window.hfftKeys = true;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, textarea, select, [contenteditable], [role=slider], [role=listbox]")) return;
    const ending = "-" + event.key.toLowerCase();
    const keys = [...document.querySelectorAll("button[id^=key-]")];
    const button = keys.find((each) => each.id.endsWith(ending) && each.offsetParent !== null && !each.disabled);
    if (!button) return;
    event.preventDefault();
    button.click();
  });
}"""
"""Presses the button on show whose id ends with the key, ``key-labels-k`` for k."""

LATE = "That press did not count: it came before this was shown."
"""Of a press that was meant for what was on show before."""


def finding(review: Review | None, pictures: Pictures | None) -> str:
    """Return the finding that is looked at: the image, what is wrong, and the images nearest to it."""
    if review is None or pictures is None:
        return ""
    each = review.current
    if each is None:
        return views.empty("Nothing was found: every label agrees with what the other images say.")
    place = f"{review.at + 1} of {len(review.findings)}"
    title = f"Label: {each.label}" if each.label is not None else "No label"
    said = (
        f"The other images speak for <b>{escape(each.suggestion)}</b> ({each.confidence:.0%})."
        if each.finding == "label"
        else f"One of the images {escape(KINDS[each.finding])}: {escape(each.reason)}."
    )
    near = [(one.image, one.label, pictures.find(one.image)) for one in each.nearest]
    figures = "".join(
        _figure(pictures.address(*found, _NEAR) if found else "", f"{label or 'no label'}", image)
        for image, label, found in near
    )
    nearest = f'<p>The nearest images</p><div class="hf-maps">{figures}</div>' if figures else ""
    return (
        f'<div aria-live="polite"><p class="hf-note">{place}, {escape(each.split)}: {escape(each.image)}</p>'
        f"{_large(pictures.address(each.split, each.image, _LARGE), title)}"
        f"<h3>{escape(title)}</h3><p>{said} {_decided(review.decisions.get(review.at))}</p>{nearest}</div>"
    )


def gallery(review: Review | None, pictures: Pictures | None) -> str:
    """Return small pictures of the findings around the one that is looked at, each with what was decided."""
    if review is None or pictures is None or not review.findings:
        return ""
    first = review.at // WINDOW * WINDOW
    cards = []
    for number, each in enumerate(review.findings[first : first + WINDOW], start=first):
        text = f"{each.label} → {each.suggestion}" if each.suggestion else each.finding
        decided = _decided(review.decisions.get(number))
        picture = pictures.address(each.split, each.image, _SMALL)
        image = f'<img src="{picture}" alt="">' if picture else ""
        now = ' aria-current="true"' if number == review.at else ""
        cards.append(
            f'<button type="button" data-number="{number}"{now}>{image}<span>{escape(text)}</span>'
            f"<b>{decided}</b></button>"
        )
    last = min(first + WINDOW, len(review.findings))
    return (
        f'<p class="hf-note">Findings {first + 1} to {last} of {len(review.findings)}</p>'
        f'<div class="hf-findings">{"".join(cards)}</div>'
    )


def photo(address: str, place: str, said: str) -> str:
    """Return a photo to label.

    Args:
        address: of the picture; empty where there is nothing to label.
        place: where it is among all.
        said: what the model takes it for, or what is to be done.
    """
    if not address:
        return views.empty(said)
    note = f'<p class="hf-note">{escape(place)}</p>'
    return f'<div aria-live="polite">{note}{_large(address, "The photo to label")}<p>{escape(said)}</p></div>'


def _large(address: str, text: str) -> str:
    return f'<img class="hf-large" src="{address}" alt="{escape(text)}">' if address else views.empty("No picture.")


def _figure(address: str, label: str, image: str) -> str:
    name = f"{escape(label)} <small>{escape(image.rpartition('/')[2])}</small>"
    picture = f'<img src="{address}" alt="Image, {escape(label)}">' if address else ""
    return f"<figure>{picture}<figcaption>{name}</figcaption></figure>"


def _decided(decision: Decision | None) -> str:
    if decision is None:
        return ""
    words = {"keep": "Kept.", "drop": "Dropped."}
    return words.get(decision.action) or f"Now {escape(decision.label)}."
