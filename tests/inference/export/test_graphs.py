"""The graph of `unknown_score` says what Python says, for every distance and in float32."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from hfft.inference.export.graphs import session_of, tail_graph
from hfft.trust.distances import DISTANCES
from hfft.trust.known import KnownImages, learn


def features(images: int, seed: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features whose directions vary as unevenly as those of a trained model."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    spread = random.normal(0, 1, (images, size)) * np.geomspace(1, 1e-3, size)
    return (np.random.default_rng(99).random((classes, size))[labels] + spread).astype(np.float32), labels


def known(method: str, images: int, size: int, classes: int) -> KnownImages:
    rows, labels = features(images, 0, size, classes)
    found = learn(rows, labels, tuple(map(str, range(images))), features(60, 1, size, classes)[0])
    return found if method == found.method else replace(found, method=method, threshold=0.02, fitted=None)


@pytest.mark.parametrize(("images", "size", "classes"), [(300, 512, 7), (2000, 64, 1), (6, 300, 6), (1, 8, 1)])
@pytest.mark.parametrize("method", list(DISTANCES))
def test_the_score_is_pythons(method: str, images: int, size: int, classes: int) -> None:
    found = known(method, images, size, classes)
    tail = tail_graph(cast(Any, SimpleNamespace(known=found)))
    assert tail is not None
    near, far = features(40, 2, size, classes)[0], np.random.default_rng(3).normal(0, 1, (40, size))
    rows = np.concatenate([near, far, near * 100, np.zeros((1, size))]).astype(np.float32)
    (scores,) = session_of(tail).run(["unknown_score"], {"tail_features": rows})
    expected = [each.score for each in found.compare(rows)]
    # One less a cosine has the digits of 1, and so an absolute error.
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-6 / found.threshold)
