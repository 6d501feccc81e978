"""What a worker does for a visitor beside training: find suspect labels, or choose which photos to label next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hfft.arguments import CacheArguments, DataArguments, FeatureArguments, LabelsArguments, NextArguments
from hfft.cache.fill import OnFill
from hfft.curate.choose import choose_next, chosen_json
from hfft.curate.desk import desk_json, examine
from hfft.curate.encoder import load_encoder
from hfft.curate.gather import gather
from hfft.wording import count_of


def run(job: dict[str, Any], on_fill: OnFill) -> str:
    """Do an errand, write what was found, and say in a sentence what that is.

    Args:
        job: its options.
        on_fill: hears how many images have passed the frozen part, of how many.

    Raises:
        HfftError: images or model are not usable, and how to mend it.
    """
    found, text = _ERRANDS[job["errand"]](job, on_fill)
    Path(job["found"]).write_text(found, encoding="utf-8", errors="surrogateescape")
    return text


def _labels(job: dict[str, Any], on_fill: OnFill) -> tuple[str, str]:
    gathered = gather(DataArguments(**job["data"]), None)
    use, seed = FeatureArguments(model=job["model"]), LabelsArguments().seed
    desk = examine(gathered, lambda: replace(load_encoder(use, _cache(job)), on_fill=on_fill), seed, lambda line: None)
    labels = len(desk.of_kind("label"))
    others = len(desk.suspects) - labels
    said = f"{labels:,} of {count_of(desk.checked, 'label')} suspect; {count_of(others, 'other finding')}."
    return desk_json(desk), said


def _next(job: dict[str, Any], on_fill: OnFill) -> tuple[str, str]:
    options = NextArguments(count=job["count"])
    use = FeatureArguments(model=job["model"])
    chosen = choose_next(use, options, job["places"], lambda line: None, _cache(job), on_fill)
    said = f"{len(chosen.chosen):,} of {count_of(chosen.images, 'photo')}."
    return chosen_json(chosen), " ".join([said, *chosen.notes])


def _cache(job: dict[str, Any]) -> CacheArguments:
    return CacheArguments(cache_dir=job["cache_dir"])


_ERRANDS: dict[str, Callable[[dict[str, Any], OnFill], tuple[str, str]]] = {"labels": _labels, "next": _next}
