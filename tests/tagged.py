"""Images of bright and dark channels with a table beside them: their tags, and how bright each channel is."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

TAGS = ("blue", "green", "red")
_CHANNELS = {"red": 0, "green": 1, "blue": 2}


def make_tagged(folder: Path, count: int = 24, seed: int = 0) -> Path:
    """Write images and ``table.csv``: path, tags (``red;blue``), a column per tag, warmth and light as numbers."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "tags", *TAGS, "warmth", "light"])
        for number in range(count):
            having = {tag: bool(number >> place & 1) for place, tag in enumerate(TAGS)}  # every combination in turn
            pixels = random.integers(0, 90, (40, 36, 3), dtype=np.uint8)
            for tag, yes in having.items():
                pixels[..., _CHANNELS[tag]] += 150 * yes
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
            means = pixels.mean(axis=(0, 1))
            warmth, light = 1000 + 10 * (means[0] - means[2]), means.mean() / 255
            tags = ";".join(tag for tag, yes in having.items() if yes)
            writer.writerow([f"{number:03d}.png", tags, *(int(yes) for yes in having.values()), warmth, light])
    return folder / "table.csv"
