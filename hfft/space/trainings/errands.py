"""What a worker does for a visitor beside training: find suspect labels, or choose which photos to label next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfft.arguments import CacheArguments, DataArguments, FeatureArguments, LabelsArguments, NextArguments
from hfft.curate.choose import choose_next, chosen_json
from hfft.curate.desk import desk_json, examine
from hfft.curate.encoder import load_encoder
from hfft.curate.gather import gather


def run(job: dict[str, Any]) -> str:
    """Do an errand, write what was found, and say in a sentence what that is.

    Raises:
        HfftError: images or model are not usable, and how to mend it.
    """
    found, text = _ERRANDS[job["errand"]](job)
    Path(job["found"]).write_text(found, encoding="utf-8", errors="surrogateescape")
    return text


def _labels(job: dict[str, Any]) -> tuple[str, str]:
    gathered = gather(DataArguments(**job["data"]), None)
    use, seed = FeatureArguments(model=job["model"]), LabelsArguments().seed
    desk = examine(gathered, lambda: load_encoder(use, _cache(job)), seed, lambda line: None)
    labels = len(desk.of_kind("label"))
    others = len(desk.suspects) - labels
    return desk_json(desk), f"{labels:,} of {desk.checked:,} labels are suspect; {others:,} other findings."


def _next(job: dict[str, Any]) -> tuple[str, str]:
    options = NextArguments(count=job["count"])
    chosen = choose_next(FeatureArguments(model=job["model"]), options, job["places"], lambda line: None, _cache(job))
    return chosen_json(chosen), " ".join([f"{len(chosen.chosen):,} of {chosen.images:,} photos.", *chosen.notes])


def _cache(job: dict[str, Any]) -> CacheArguments:
    return CacheArguments(cache_dir=job["cache_dir"])


_ERRANDS: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {"labels": _labels, "next": _next}
