"""Dividing a data set into train, validation and test: stratified by label, near-copies kept together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ingest.manifest import Split

PARTS = (Split.TRAIN, Split.VALIDATION, Split.TEST)


def resplit(
    labels: NDArray[np.int32],
    groups: NDArray[np.int32],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    given: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """The part of each example: 0 train, 1 validation, 2 test.

    labels, groups: (N,); examples of one group stay in one part. fractions: shares of train, validation, test.
    given: (N,) parts that are already decided, 255 where not. What is decided stays, save that a part given to no
    example is carved out of train. The same arguments give the same parts, on every machine.

    A class with three groups or more has an example in every part that has a share; one with less has all its examples
    in train, as has one with less than three examples. Raises ValueError for shares that are no shares.
    """
    check_fractions(fractions)
    parts = np.full(len(labels), Split.FREE, np.uint8) if given is None else given.astype(np.uint8)
    shares = list(fractions)
    if (parts != Split.FREE).any():
        missing = [part for part in (Split.VALIDATION, Split.TEST) if not (parts == part).any() and shares[part] > 0]
        if missing:
            parts[parts == Split.TRAIN] = Split.FREE
            for part in (Split.VALIDATION, Split.TEST):
                if part not in missing:
                    shares[part] = 0.0
    free = np.flatnonzero(parts == Split.FREE)
    parts[free] = _divide(labels[free], groups[free], shares, seed)
    return parts


def check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"shares of train, validation and test must be three numbers ≥ 0 with sum 1 and train > 0, not {tuple(fractions)}"
        )


def _divide(
    labels: NDArray[np.int32], groups: NDArray[np.int32], shares: Sequence[float], seed: int
) -> NDArray[np.uint8]:
    parts = np.zeros(len(labels), np.uint8)
    if not len(labels):
        return parts
    quotas = _quotas(np.bincount(labels), shares)
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    # Raw output of the bit generator: its stream is promised to stay, that of Generator's methods is not.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(first)), kind="stable")
    by_group = np.argsort(group_of, kind="stable")
    ends = np.cumsum(np.bincount(group_of))
    for group in order:
        members = by_group[ends[group - 1] if group else 0 : ends[group]]
        counts: dict[int, int] = {}
        for label in labels[members].tolist():
            counts[label] = counts.get(label, 0) + 1
        for part in (Split.TEST, Split.VALIDATION):
            if all(quotas[part][label] >= count for label, count in counts.items()):
                parts[members] = part
                for label, count in counts.items():
                    quotas[part][label] -= count
                break
    _fill_gaps(parts, labels, group_of, quotas)
    return parts


def _quotas(counts: NDArray[np.int64], shares: Sequence[float]) -> dict[Split, list[int]]:
    """How many examples of each label go to validation and test: the share, but one at least and never all."""
    quotas: dict[Split, list[int]] = {Split.VALIDATION: [], Split.TEST: []}
    for count in counts.tolist():
        left = count - 1
        for part in (Split.TEST, Split.VALIDATION):
            quota = max(1, round(count * shares[part])) if shares[part] > 0 and count >= 3 else 0
            quota = min(quota, left - 1 if part is Split.TEST and shares[Split.VALIDATION] > 0 else left)
            quotas[part].append(max(0, quota))
            left -= quotas[part][-1]
    return quotas


def _fill_gaps(
    parts: NDArray[np.uint8],
    labels: NDArray[np.int32],
    group_of: NDArray[np.int64],
    quotas: dict[Split, list[int]],
) -> None:
    """Give a part that lacks a class, because every group was larger than its quota, the smallest group of that class.

    quotas: what is still missing.
    """
    for part in (Split.TEST, Split.VALIDATION):
        for label in np.flatnonzero(np.asarray(quotas[part]) > 0):
            own = labels == label
            if (parts[own] == part).any():
                continue
            candidates = np.unique(group_of[own & (parts == Split.TRAIN)])
            if len(candidates) < 2:
                continue  # train would lose the class
            members = [np.flatnonzero(group_of == group) for group in candidates]
            pure = [rows for rows in members if (labels[rows] == label).all()]
            if pure:
                parts[min(pure, key=len)] = part
