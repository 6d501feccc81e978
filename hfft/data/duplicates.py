"""Groups of images that are the same, or nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAR_BITS = 2
"""Perceptual hashes of 64 bits that differ in at most so many belong to nearly the same image."""
NEAR_COLOUR = 12
"""Mean red, green and blue (0 to 255) of nearly the same images differ by at most this."""

_BANDS = [np.uint64((1 << 64) - (1 << 43)), np.uint64((1 << 43) - (1 << 21)), np.uint64((1 << 21) - 1)]
"""Masks of parts of a hash, one more than bits may differ: hashes of a near pair agree in one part at least."""
_MOST_PAIRS = 2_000_000
_FLAT_BITS = 2  # an image of one colour sets the constant's bit alone; so short a hash says nothing


def equal_groups(contents: Sequence[bytes]) -> list[list[int]]:
    """Return the groups of two or more rows with the same content, in order; empty content is left out."""
    rows = defaultdict(list)
    for row, content in enumerate(contents):
        if content:
            rows[content].append(row)
    return [group for group in rows.values() if len(group) > 1]


def near_groups(shapes: Sequence[bytes], colours: Sequence[tuple[int, int, int]]) -> list[list[int]]:
    """Return the groups of two or more rows that look nearly the same, in order.

    Only rows whose hashes agree in a part of the bits are compared (Norouzi et al., "Fast search in Hamming space with
    multi-index hashing", CVPR 2012). Whatever is near to a member of a group belongs to it.

    Args:
        shapes: perceptual hashes of 8 bytes; empty ones are left out.
        colours: mean red, green and blue of each row.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = np.array([row for row, shape in enumerate(shapes) if shape], dtype=np.int64)
    if len(rows) < 2:
        return []
    hashes = np.frombuffer(b"".join(shapes[row] for row in rows), ">u8").astype(np.uint64)
    ones = _bits_set(hashes)
    told = (ones > _FLAT_BITS) & (ones < 64 - _FLAT_BITS)
    rows, hashes = rows[told], hashes[told]
    left, right = _near_pairs(hashes, np.array([colours[row] for row in rows], dtype=np.int16).reshape(-1, 3))
    graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(len(rows), len(rows)))
    _, group_of = connected_components(graph, directed=False)
    groups = defaultdict(list)
    for row, group in zip(rows.tolist(), group_of.tolist(), strict=True):
        groups[group].append(row)
    return [group for group in groups.values() if len(group) > 1]


def _bits_set(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.asarray(np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1), np.int64)


def _near_pairs(hashes: NDArray[np.uint64], colours: NDArray[np.int16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both ends of each near pair; of images that are all alike, no more than so many pairs."""
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for band in _BANDS:
        part = hashes & band
        order = np.argsort(part, kind="stable")
        part, places, pairs = part[order], np.arange(len(order)), 0
        for apart in range(1, len(order)):
            places = places[places + apart < len(order)]
            places = places[part[places] == part[places + apart]]  # those nearer by agreed as well
            if not len(places) or pairs > _MOST_PAIRS:
                break
            left, right = order[places], order[places + apart]
            near = (_bits_set(hashes[left] ^ hashes[right]) <= NEAR_BITS) & (
                np.abs(colours[left] - colours[right]).max(axis=1) <= NEAR_COLOUR
            )
            lefts.append(left[near])
            rights.append(right[near])
            pairs += int(near.sum())
    return np.concatenate(lefts), np.concatenate(rights)
