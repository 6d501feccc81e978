"""Near images are those that a comparison of every pair finds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import DisjointSet

from hfft.data.duplicates import NEAR_BITS, NEAR_COLOUR, near_groups


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kinds=st.integers(1, 12), most_flips=st.integers(0, 4))
def test_the_groups_are_those_of_every_pair_compared(seed: int, kinds: int, most_flips: int) -> None:
    random, count = np.random.default_rng(seed), 60
    bits = random.integers(0, 2, (kinds, 64))[random.integers(0, kinds, count)]
    for row in bits:
        row[random.choice(64, random.integers(0, most_flips + 1), replace=False)] ^= 1
    bits[:, 8:16] = random.integers(0, 2, 8)  # so that no hash is of one colour
    bits[:, :8] = [0, 1, 0, 1, 0, 1, 0, 1]
    colours = random.integers(100, 100 + 2 * NEAR_COLOUR, (count, 3))
    told = DisjointSet(range(count))
    for left, right in combinations(range(count), 2):
        near = (bits[left] != bits[right]).sum() <= NEAR_BITS
        if near and np.abs(colours[left] - colours[right]).max() <= NEAR_COLOUR:
            told.merge(left, right)
    shapes = [np.packbits(row.astype(np.uint8)).tobytes() for row in bits]
    found = near_groups(shapes, [(int(r), int(g), int(b)) for r, g, b in colours])
    assert sorted(map(sorted, found)) == sorted(sorted(group) for group in told.subsets() if len(group) > 1)


def test_of_images_that_are_all_alike_every_one_is_found() -> None:
    assert near_groups([b"\x0f" * 8] * 5000, [(9, 9, 9)] * 5000) == [list(range(5000))]
