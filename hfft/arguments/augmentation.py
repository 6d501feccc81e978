"""What ``--augment`` and ``--frofa`` may say; nothing here imports a library."""

from __future__ import annotations

from dataclasses import dataclass

from hfft.errors import ArgumentError

AUGMENTATIONS = ("none", "flip", "crop", "randaugment", "jitter")
FEATURE_STEPS = {"brightness": 0.5, "contrast": 0.5, "posterise": 3.0}
"""Changes of frozen features, with the strength that each has where none is given."""
BITS = 8
"""Of a picture's channel, of which posterise leaves a few."""
_MOST = {"brightness": 2.0, "contrast": 1.0}


@dataclass(frozen=True)
class FeatureStep:
    """One change of all activations of a batch.

    Args:
        name: a key of `FEATURE_STEPS`.
        strength: of brightness and contrast, how far at most, as a share of the channel's range or of its contrast; of
            posterise, the fewest bits.
    """

    name: str
    strength: float


def parse_frofa(text: str) -> tuple[FeatureStep, ...]:
    """Read what ``--frofa`` says: ``none``, or steps with commas between them, such as ``brightness:0.5,posterise:4``.

    Raises:
        ArgumentError: it says something else.
    """
    return () if text == "none" else tuple(_step(part.strip()) for part in text.split(","))


def _step(text: str) -> FeatureStep:
    name, _, given = text.partition(":")
    if name not in FEATURE_STEPS:
        raise ArgumentError(f"--frofa takes none, or {', '.join(FEATURE_STEPS)} with commas between them, not {text!r}")
    try:
        strength = float(given) if given else FEATURE_STEPS[name]
    except ValueError:
        raise ArgumentError(f"--frofa {text}: {given!r} is not a number") from None
    if name == "posterise":
        if strength not in range(1, BITS):
            raise ArgumentError(f"--frofa {text}: posterise takes the fewest bits, a whole number from 1 to {BITS - 1}")
    elif not 0 < strength <= _MOST[name]:
        raise ArgumentError(f"--frofa {text}: {name} lies above 0 and is at most {_MOST[name]:g}")
    return FeatureStep(name, strength)
