"""Commands that look after images by a model's features: embed, depth, labels, next."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hfft.arguments import (
    DataArguments,
    DepthArguments,
    EmbedArguments,
    FeatureArguments,
    LabelsArguments,
    NextArguments,
)
from hfft.bars import bar, loading
from hfft.cli.commands import summary_of
from hfft.cli.reply import Reply
from hfft.parsing import parse

if TYPE_CHECKING:
    from hfft.data.probe import ImageProbe


def embed_command(argv: list[str]) -> Reply:
    """Write pooled features of any block, for neighbours, plots and other tools."""
    groups = (FeatureArguments, DataArguments, EmbedArguments)
    use, data, options, place = parse(groups, argv, "embed", summary_of("embed"), _place(", with or without labels"))
    with loading():
        from hfft.curate.embed import describe_embedding, embed

    embedding = embed(use, data, options, place, _say)
    rows, width = embedding.values.shape
    facts = {
        "output": options.output,
        "model": embedding.model,
        "part": embedding.part,
        "images": rows,
        "features": width,
    }
    return Reply(facts, describe_embedding(embedding, options.output))


def depth_command(argv: list[str]) -> Reply:
    """Measure what linear probes make of each block's output, which shows where pretrained features stop helping."""
    groups = (FeatureArguments, DataArguments, DepthArguments)
    use, data, options, place = parse(groups, argv, "depth", summary_of("depth"), _place(""))
    with loading():
        from hfft.curate.depth import accuracy_over_depth

    depth = accuracy_over_depth(use, data, options, place, _say)
    return Reply(depth.data, str(depth))


def labels_command(argv: list[str]) -> Reply:
    """Find labels that all other images contradict and odd images, or write a new list by decisions about them."""
    groups = (FeatureArguments, DataArguments, LabelsArguments)
    use, data, options, place = parse(groups, argv, "labels", summary_of("labels"), _place(""))
    if options.apply is not None:
        from hfft.curate.fixes import apply_fixes

        fixed = apply_fixes(data, options, place)
        return Reply(fixed, fixed.describe())
    with loading():
        from hfft.curate.desk import desk_table, label_desk

    desk = label_desk(use, data, options, place, _say, _progress)
    if options.output is not None:
        _say(f"Wrote {options.output}: {len(desk.suspects):,} findings.")
    return Reply(desk, desk_table(desk))


def next_command(argv: list[str]) -> Reply:
    """Choose the unlabelled images whose labels would teach a finished run most."""
    images = {"nargs": "+", "metavar": "UNLABELLED", "help": "Images, or folders with images in them and below."}
    use, options, places = parse((FeatureArguments, NextArguments), argv, "next", summary_of("next"), images)
    with loading():
        from hfft.curate.choose import choose_next, chosen_table

    chosen = choose_next(use, options, places, _say)
    return Reply(chosen, chosen_table(chosen))


def _place(more: str) -> dict[str, Any]:
    text = f"Folder, file or Hub id of images{more}, or the folder of a finished run. Left out: what the flags say."
    return {"nargs": "?", "metavar": "DATA", "help": text}


def _say(line: str) -> None:
    """Tell people; programs read standard output."""
    print(line, file=sys.stderr)


def _progress(probes: Iterable[ImageProbe], total: int) -> Iterable[ImageProbe]:
    return bar(probes, desc="Look", total=total, unit="image")
