"""Draw a model's architecture from its anatomy: every part a bar, frozen and trained parts in different colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hfft.explain.pipeline import PartTrace

FROZEN, TRAINED = "#0072B2", "#D55E00"
"""Of Okabe and Ito's colours (2008), which colour-blind readers tell apart; trained bars are hatched as well."""

_WIDTH, _ROW, _TOP, _BAR = 420, 44, 30, 400
_SHOWN = 40  # characters of the longest line beside a bar


def architecture_svg(parts: Sequence[PartTrace], name: str) -> str:
    """Return the drawing as an SVG that scales with its container and takes the page's text colour.

    Args:
        parts: of the anatomy, in order of depth; a bar's length is the part's share of all parameters.
        name: of the model, for those who cannot see the drawing.
    """
    total = max(sum(part.parameters for part in parts), 1)
    trained = sum(part.trained for part in parts)
    height = _TOP + _ROW * len(parts)
    alt = f"{name}: {len(parts)} parts, {trained:,} of {total:,} parameters trained. " + "; ".join(
        f"{part.part} {_state(part)}" for part in parts
    )
    rows = "".join(_row(part, _TOP + _ROW * place, part.parameters / total) for place, part in enumerate(parts))
    return (
        f'<svg class="architecture" role="img" aria-label="{escape(alt)}" viewBox="0 0 {_WIDTH} {height}" '
        'style="width:100%;max-width:560px" font-family="inherit" fill="currentColor">'
        f"{_hatch()}{_legend()}{rows}</svg>"
    )


def count_text(number: float) -> str:
    """Return a count with at most three figures before its unit: 605k, 1.02M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.2f}{unit}" if value < 10 else f"{value:.1f}{unit}" if value < 100 else f"{value:.0f}{unit}"
    return f"{number:.0f}"


def operations(number: float) -> str:
    """Return a count of floating-point operations: 99.0 MFLOP."""
    text = count_text(number)
    return f"{text[:-1]} {text[-1]}FLOP" if text[-1].isalpha() else f"{text} FLOP"


def _row(part: PartTrace, top: int, share: float) -> str:
    width = max(3.0, share * _BAR)
    fill = "url(#trained)" if part.trained else FROZEN
    shape = " x ".join(map(str, part.shape))
    what = f"{count_text(part.parameters)} parameters, {share:.1%}" if part.parameters else "no parameters"
    return (
        f"<g><title>{escape(', '.join(part.modules))}</title>"
        f'<text x="4" y="{top + 13}" font-size="13"><tspan font-weight="600">{escape(part.part)}</tspan> '
        f"<tspan>{_state(part)}</tspan></text>"
        f'<text x="{_BAR + 4}" y="{top + 13}" font-size="12" text-anchor="end">'
        f"{escape((what + (f' → {shape}' if shape else ''))[: _SHOWN + 10])}</text>"
        f'<rect x="4" y="{top + 19}" width="{_BAR}" height="14" rx="3" fill="currentColor" opacity="0.08"/>'
        f'<rect x="4" y="{top + 19}" width="{width:.1f}" height="14" rx="3" fill="{fill}"/></g>'
    )


def _state(part: PartTrace) -> str:
    if part.trained and part.trained < part.parameters:
        return f"{part.trained / part.parameters:.0%} trained"
    return "trained" if part.trained else "frozen"


def _hatch() -> str:
    return (
        '<defs><pattern id="trained" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="6" height="6" fill="{TRAINED}"/>'
        '<line x1="0" y1="0" x2="0" y2="6" stroke="#fff" stroke-width="1.5" opacity="0.45"/></pattern></defs>'
    )


def _legend() -> str:
    return (
        f'<rect x="4" y="4" width="14" height="14" rx="3" fill="{FROZEN}"/>'
        '<text x="24" y="16" font-size="13">frozen</text>'
        '<rect x="90" y="4" width="14" height="14" rx="3" fill="url(#trained)"/>'
        '<text x="110" y="16" font-size="13">trained</text>'
    )
