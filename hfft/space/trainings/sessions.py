"""What the Space keeps of one visitor."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from hfft.explain.gradcam import ActivationMap
from hfft.space.trainings.queue import Training


@dataclass
class Session:
    """One visitor.

    Args:
        source: the model that this visitor uses; None for the served one.
        own: folder of the model that this visitor trained.
        files: uploaded for training, by class.
        training: that this visitor started last.
        map: of the image classified last, with the image.
        seen: when something was last asked for, on the monotonic clock.
    """

    source: str | None = None
    own: Path | None = None
    files: dict[str, list[str]] = field(default_factory=dict)
    training: Training | None = None
    map: tuple[Image.Image, ActivationMap | None] | None = None
    seen: float = field(default_factory=time.monotonic)


def new_folder(work: Path, kind: str) -> Path:
    """Make a folder of a name that nobody can guess below the Space's work folder.

    Args:
        work: the Space's work folder.
        kind: ``uploads`` or ``trainings``.
    """
    folder = work / kind / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return folder
