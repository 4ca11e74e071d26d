"""Pictures that are nearly the same: found by a perceptual hash, confirmed by their pixels, grouped.

The hash alone will not do. On small or gray pictures it calls different things equal: of 5,000 MNIST digits 54 % have
a "copy" within 6 of 64 bits. So it only proposes pairs, and a pair counts when the pictures, brought to 16×16,
correlate by at least 0.985. What that gives on which data stands in bench/RESULTS.md.

No step looks at all pairs. The hashes are sorted under a number of fixed permutations of their bits, and each picture
is held against the few that follow it: time and memory are linear in the number of pictures.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64
NEAR_BITS = 6  # hashes of re-saved, scaled, brightened copies differ by this or less in 95 to 99 of 100
NEAR_CORRELATION = 0.985
SIGNATURE_SIDE = 16
FLAT_DEVIATION = 2.0  # of 255: below, a picture is one colour, and what differs is noise
_PERMUTATIONS = 16  # a pair 4 bits apart is missed by 3 in 1,000, one 6 bits apart by 6 in 100
_WINDOW = 8
_PAIRS_EACH = 4
_PAIRS_AT_ONCE = 4096
_ROWS_AT_ONCE = 64
Pictures = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
MAX_GROUP = 8  # or 1/20 of its smallest class: a chain through a whole class could not be split
_MAX_GROUP_SHARE = 0.05


def perceptual_hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The 64-bit hash of each picture: signs of its 8×8 lowest cosine frequencies about their median.

    pictures: uint8 (B, side, side, channels), colour counts by its luminance. Returns (B,).
    After Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", DCT hash.
    """
    gray = _luminance(pictures)  # (B, side, side)
    waves = _cosines(8, gray.shape[1])
    low = (waves @ gray @ waves.T).reshape(len(gray), HASH_BITS)
    low[:, 0] = 0.0  # mean brightness says nothing about content
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def near_pairs(hashes: NDArray[np.uint64], pictures: Pictures) -> NDArray[np.int64]:
    """Pairs of near-copies, (P, 2) with the smaller index first, the most alike first.

    hashes: (N,). pictures: gives (B, side, side, channels) for row numbers (B,); asked for what is needed alone.
    """
    keys = _proposals(hashes)
    pairs, likeness = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for at in range(0, len(keys), _PAIRS_AT_ONCE):
        some = np.stack(np.divmod(keys[at : at + _PAIRS_AT_ONCE], len(hashes)), axis=1)
        rows, place = np.unique(some, return_inverse=True)
        place = place.reshape(some.shape)
        signatures = np.concatenate(
            [_signatures(pictures(rows[first : first + _ROWS_AT_ONCE])) for first in range(0, len(rows), _ROWS_AT_ONCE)]
        )
        alike = np.einsum("pd,pd->p", signatures[place[:, 0]], signatures[place[:, 1]])
        near = alike >= NEAR_CORRELATION
        pairs.append(some[near])
        likeness.append(alike[near])
    found, correlations = np.concatenate(pairs), np.concatenate(likeness)
    return found[np.lexsort((found[:, 1], found[:, 0], -correlations))]


def group(pairs: NDArray[np.int64], labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """A group for each example, (N,): near-copies share one, named by its smallest index; everyone else has his own.

    pairs: (P, 2), joined in their order. A group never outgrows MAX_GROUP, or a twentieth of the smallest class in it.
    """
    parent = np.arange(len(labels), dtype=np.int32)
    size = np.ones(len(labels), np.int32)
    limit = np.maximum(MAX_GROUP, np.bincount(labels, minlength=1) * _MAX_GROUP_SHARE).astype(np.int32)[labels]

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = int(parent[at])
        return at

    for one, other in pairs.tolist():
        low, high = sorted((root(one), root(other)))
        if low == high or size[low] + size[high] > min(limit[low], limit[high]):
            continue
        parent[high] = low
        size[low] += size[high]
        limit[low] = min(limit[low], limit[high])
    return np.fromiter((root(at) for at in range(len(labels))), np.int32, len(labels))


def _proposals(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs whose hashes are near, as `smaller × N + larger`, sorted.

    There are at most _PAIRS_EACH × N of them. More come up only when the hashes hardly tell the pictures apart (drawings
    of a few pixels); then the nearest are kept and no more are looked for.
    """
    count = len(hashes)
    keys = np.empty(0, np.int64)
    for number in range(_PERMUTATIONS):
        order = np.argsort(_permuted(hashes, number), kind="stable")
        ordered = hashes[order]
        found = [keys]
        for step in range(1, min(_WINDOW, count - 1) + 1):
            near = np.flatnonzero(np.bitwise_count(ordered[:-step] ^ ordered[step:]) <= NEAR_BITS)
            one, other = order[near], order[near + step]
            found.append(np.minimum(one, other) * count + np.maximum(one, other))
        keys = np.unique(np.concatenate(found))
        if len(keys) > _PAIRS_EACH * count:
            one, other = np.divmod(keys, count)
            nearest = np.argsort(np.bitwise_count(hashes[one] ^ hashes[other]), kind="stable")
            return np.sort(keys[nearest[: _PAIRS_EACH * count]])
    return keys


def _permuted(hashes: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    """The hashes with their bits in another order; the order is a function of `number`."""
    order = np.argsort(np.random.PCG64(number).random_raw(HASH_BITS), kind="stable")
    permuted = np.empty_like(hashes)
    for at in range(0, len(hashes), 1 << 16):
        bits = np.unpackbits(hashes[at : at + (1 << 16), None].view(np.uint8), axis=1)[:, order]
        permuted[at : at + (1 << 16)] = np.packbits(np.ascontiguousarray(bits), axis=1).view(np.uint64)[:, 0]
    return permuted


def _signatures(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit vectors whose dot product is the correlation of the 16×16 pictures over all channels; zero for flat ones."""
    side = pictures.shape[1]
    shrink = _averages(min(SIGNATURE_SIDE, side), side)
    planes = np.moveaxis(pictures, -1, 1).astype(np.float32)  # (B, C, side, side)
    narrow = planes.reshape(-1, side) @ shrink.T  # as two large products: many small ones take five times as long
    turned = narrow.reshape(-1, side, len(shrink)).swapaxes(1, 2).reshape(-1, side)  # (B × C × 16, side)
    small = (turned @ shrink.T).reshape(len(pictures), -1)
    small -= small.mean(axis=1, keepdims=True)
    length = np.linalg.norm(small, axis=1, keepdims=True)
    flat = length < FLAT_DEVIATION * np.sqrt(small.shape[1])
    return np.where(flat, 0.0, small / np.maximum(length, 1e-6)).astype(np.float32)


def _luminance(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    if pictures.shape[-1] == 1:
        return pictures[..., 0].astype(np.float32)
    gray: NDArray[np.float32] = pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return gray


def _cosines(count: int, side: int) -> NDArray[np.float32]:
    """The first `count` rows of the orthonormal DCT-II of length `side`; (count, side)."""
    angles = np.pi * np.arange(count)[:, None] * (2 * np.arange(side)[None] + 1) / (2 * side)
    waves: NDArray[np.float32] = (np.cos(angles) * np.sqrt(2 / side)).astype(np.float32)
    return waves


def _averages(to: int, side: int) -> NDArray[np.float32]:
    """Area averaging from `side` to `to` pixels as a matrix; (to, side), rows sum to 1."""
    edges = np.arange(to + 1) * side / to
    pixel = np.arange(side)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    shares: NDArray[np.float32] = (np.clip(covered, 0, None) * to / side).astype(np.float32)
    return shares
