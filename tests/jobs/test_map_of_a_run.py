"""The map that a run leaves: points of both models' features, and its numbers in record and card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import Job, record

from hfft.arguments import DataArguments, FeatureArguments
from hfft.curate.encoder import load_base, load_encoder
from hfft.curate.features import read_features
from hfft.curate.gather import gather
from hfft.output_folder import FEATURE_MAP
from hfft.report.record import read_record
from hfft.trust.feature_map import read_map


def read(folder: Path, base: bool) -> dict[str, np.ndarray]:
    """What the head reads of each of the run's images, by its name, as `hfft embed` reads it."""
    encoder = (
        load_base(read_record(folder / "hfft.json")) if base else load_encoder(FeatureArguments(model=str(folder)))
    )
    sets = gather(DataArguments(), str(folder)).sets
    found = read_features(encoder, sets, [None], lambda line: None)
    return {
        file: row for split, images in sets.items() for file, row in zip(images.files, found[split].values, strict=True)
    }


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_points_are_of_both_models_own_features(kind: str, job: Job) -> None:
    folder = job(kind, "run", "--learning_rate", 1e-2)
    found = read_map(folder / FEATURE_MAP)
    assert found.before is not None
    for side, base in ((found.before, True), (found.after, False)):
        features = read(folder, base)
        for split in ("train", "validation"):
            rows = np.stack([features[file] for file in found.files[split]])
            np.testing.assert_allclose(side.plane.place(rows), side.points[split], atol=2e-3)
    lines = (folder / "predictions.csv").read_text().splitlines()[1:]
    labels = record(folder)["data"]["labels"]
    assert [line.split(",")[0] for line in lines] == list(found.files["validation"])
    assert [line.split(",")[2] for line in lines] == [labels[row] for row in found.said]
    written = record(folder)["feature_map"]
    assert (written["alike_before"], written["alike_after"]) == (found.before.alike, found.after.alike)
    assert "In what the head reads" in (folder / "README.md").read_text()


def test_a_run_without_baselines_has_no_before(job: Job) -> None:
    folder = job("vit", "run", "--baselines", "none")
    assert read_map(folder / FEATURE_MAP).before is None
    assert record(folder)["feature_map"]["alike_before"] is None
