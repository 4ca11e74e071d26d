"""What an import thinks of the data: things that no row is wrong for, and that spoil a model all the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ingest.manifest import Split

TINY_CLASS = 10  # below, a test figure for the class is a coin's
IMBALANCE = 10  # times as many examples in the largest class as in the smallest
ODD_ASPECT = 2.0  # times as wide or as narrow as the median picture: squashing distorts it
SMALL_SHARE = 0.5  # of the packed side: enlarged by more than twice
LARGE_TIMES = 8  # of the median short side
COLOUR_GAP = 0.5  # difference between two classes in their share of gray pictures
FIRST = 100
_SHOWN_LABELS = 5


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """kind: a stable word. labels, examples: what it is about, examples as numbers, the first FIRST of them."""

    kind: str
    severity: Severity
    message: str
    labels: tuple[str, ...] = ()
    examples: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """The data set as findings see it; arrays are (N,) in example order.

    pairs: (P, 2) near-copies. given: a split came with the data. refused, merged: files left out, exact copies.
    conflicts: examples that were uploaded under other labels, too; torn: files left out because no label prevailed.
    """

    labels: Sequence[str]
    label: NDArray[np.int32]
    split: NDArray[np.uint8]
    group: NDArray[np.int32]
    pairs: NDArray[np.int64]
    width: NDArray[np.uint32]
    height: NDArray[np.uint32]
    gray: NDArray[np.bool_]
    side: int
    given: bool
    refused: int
    merged: int
    conflicts: Sequence[int] = field(default=())
    torn: int = 0
    moved: int = 0


def find(facts: Facts) -> list[Finding]:
    """All findings, the ones about files first."""
    return [
        *_files(facts),
        *_classes(facts),
        *_copies(facts),
        *_shapes(facts),
        *_colour(facts),
    ]


def _files(facts: Facts) -> list[Finding]:
    found = []
    if facts.refused:
        found.append(
            Finding(
                "refused_files",
                Severity.WARNING,
                f"{_items(facts.refused)} left out; the import's report has the reasons.",
            )
        )
    if facts.merged:
        found.append(
            Finding("exact_duplicates", Severity.INFO, f"{_items(facts.merged)} merged with an identical one.")
        )
    if facts.conflicts or facts.torn:
        message = "Identical files carry different labels: "
        if facts.conflicts:
            message += f"{_pictures(len(facts.conflicts), 'has', 'have')} the label that most of the copies have; "
        if facts.torn:
            message += f"{_items(facts.torn)} left out as no label prevailed; "
        touched = sorted({facts.labels[facts.label[at]] for at in facts.conflicts})
        found.append(
            Finding(
                "conflicting_labels",
                Severity.WARNING,
                message.removesuffix("; ") + ".",
                tuple(touched),
                _first(facts.conflicts),
            )
        )
    if facts.moved:
        found.append(
            Finding(
                "split_leak_exact",
                Severity.WARNING,
                f"{_pictures(facts.moved, 'was', 'were')} in two parts of the given split and stayed in test or validation alone.",
            )
        )
    return found


def _classes(facts: Facts) -> list[Finding]:
    found = []
    counts = np.bincount(facts.label, minlength=len(facts.labels))
    single = np.flatnonzero(counts == 1)
    if len(single):
        found.append(
            Finding(
                "single_example_classes",
                Severity.WARNING,
                f"{_classes_with(single, facts)} one picture only: it is learnt from, but nothing is left to measure with.",
                _labels(single, facts),
                _first(np.flatnonzero(np.isin(facts.label, single))),
            )
        )
    tiny = np.flatnonzero((counts > 1) & (counts < TINY_CLASS))
    if len(tiny):
        found.append(
            Finding(
                "tiny_classes",
                Severity.WARNING,
                f"{_classes_with(tiny, facts)} fewer than {TINY_CLASS} pictures: figures for such a class say little.",
                _labels(tiny, facts),
            )
        )
    if counts.max() >= IMBALANCE * counts.min():
        large, small = int(counts.argmax()), int(counts.argmin())
        found.append(
            Finding(
                "imbalance",
                Severity.WARNING,
                f"'{facts.labels[large]}' has {counts[large]:,} pictures, '{facts.labels[small]}' {counts[small]:,}: "
                "consider balanced accuracy or macro F1 as the objective.",
                (facts.labels[large], facts.labels[small]),
            )
        )
    for part in (Split.TRAIN, Split.VALIDATION, Split.TEST):
        here = np.bincount(facts.label[facts.split == part], minlength=len(facts.labels))
        absent = np.flatnonzero((here == 0) & (counts > 1))
        if len(absent):
            found.append(
                Finding(
                    "absent_classes",
                    Severity.WARNING if part == Split.TRAIN or facts.given else Severity.INFO,
                    f"{_classes_with(absent, facts)} no picture in {part.name.lower()}.",
                    _labels(absent, facts),
                )
            )
    folded: dict[str, list[str]] = {}
    for name in facts.labels:
        folded.setdefault(name.casefold(), []).append(name)
    for names in folded.values():
        if len(names) > 1:
            found.append(
                Finding(
                    "labels_differ_in_case",
                    Severity.WARNING,
                    f"The labels {_list(names)} differ in upper and lower case alone; they count as {len(names)} classes.",
                    tuple(names),
                )
            )
    return found


def _copies(facts: Facts) -> list[Finding]:
    found = []
    sizes = np.bincount(facts.group, minlength=len(facts.group))
    grouped = np.flatnonzero(sizes[facts.group] > 1)
    if len(grouped):
        found.append(
            Finding(
                "near_duplicates",
                Severity.INFO,
                f"{_pictures(len(grouped), 'is', 'are')} ({len(grouped) / len(facts.label):.1%} of all) near-copies of others, in "
                f"{int((sizes > 1).sum()):,} groups; a new split keeps each group on one side.",
                examples=_first(grouped),
            )
        )
    one, other = facts.pairs[:, 0], facts.pairs[:, 1]
    disputed = facts.label[one] != facts.label[other]
    if disputed.any():
        touched = np.unique(facts.label[facts.pairs[disputed]])
        found.append(
            Finding(
                "near_duplicates_differ_in_label",
                Severity.WARNING,
                f"Near-copies carry different labels in {_pairs(disputed)}; one of the two may be wrong.",
                _labels(touched, facts),
                _first(facts.pairs[disputed].ravel()),
            )
        )
    leaking = facts.split[one] != facts.split[other]
    if leaking.any():
        found.append(
            Finding(
                "split_leak",
                Severity.WARNING if facts.given else Severity.INFO,
                f"Near-copies stand in different parts of the split in {_pairs(leaking)}"
                + (
                    " that came with the data; figures will flatter. A new split keeps them together."
                    if facts.given
                    else ": their groups were too large to stay whole."
                ),
                examples=_first(facts.pairs[leaking].ravel()),
            )
        )
    return found


def _shapes(facts: Facts) -> list[Finding]:
    found = []
    width, height = facts.width.astype(np.float64), facts.height.astype(np.float64)
    short = np.minimum(width, height)
    aspect = np.log(width / height)
    odd = np.flatnonzero(np.abs(aspect - np.median(aspect)) > np.log(ODD_ASPECT))
    if len(odd):
        at = odd[0]
        found.append(
            Finding(
                "odd_shapes",
                Severity.INFO,
                f"{_pictures(len(odd), 'is', 'are')} more than {ODD_ASPECT:g} times wider or narrower than the usual one (e.g. "
                f"{facts.width[at]}×{facts.height[at]}): distorted when brought to a square.",
                examples=_first(odd),
            )
        )
    small = np.flatnonzero(short < SMALL_SHARE * facts.side)
    if len(small):
        found.append(
            Finding(
                "small_pictures",
                Severity.INFO,
                f"{_pictures(len(small), 'is', 'are')} smaller than half of the {facts.side} pixels that networks see.",
                examples=_first(small),
            )
        )
    large = np.flatnonzero(short > LARGE_TIMES * np.median(short))
    if len(large):
        found.append(
            Finding(
                "large_pictures",
                Severity.INFO,
                f"{_pictures(len(large), 'is', 'are')} more than {LARGE_TIMES} times larger than the usual one.",
                examples=_first(large),
            )
        )
    return found


def _colour(facts: Facts) -> list[Finding]:
    gray = int(facts.gray.sum())
    if gray in (0, len(facts.gray)):
        return []
    counts = np.bincount(facts.label, minlength=len(facts.labels))
    share = np.bincount(facts.label, facts.gray, len(facts.labels)) / np.maximum(counts, 1)
    weighed = np.flatnonzero(counts >= TINY_CLASS)
    minority = np.flatnonzero(facts.gray if gray * 2 <= len(facts.gray) else ~facts.gray)
    if len(weighed) > 1 and share[weighed].max() - share[weighed].min() >= COLOUR_GAP:
        most, least = weighed[share[weighed].argmax()], weighed[share[weighed].argmin()]
        return [
            Finding(
                "colour_tells_class",
                Severity.WARNING,
                f"{share[most]:.0%} of '{facts.labels[most]}' is gray, but {share[least]:.0%} of '{facts.labels[least]}': a "
                "network can tell them apart without looking at the content.",
                (facts.labels[most], facts.labels[least]),
                _first(minority),
            )
        ]
    return [
        Finding(
            "mixed_colour",
            Severity.INFO,
            f"{_pictures(gray, 'is', 'are')} gray, {len(facts.gray) - gray:,} in colour.",
            examples=_first(minority),
        )
    ]


def _items(count: int) -> str:
    return f"{count:,} file was" if count == 1 else f"{count:,} files were"


def _pictures(count: int, one: str, several: str) -> str:
    return f"1 picture {one}" if count == 1 else f"{count:,} pictures {several}"


def _pairs(which: NDArray[np.bool_]) -> str:
    count = int(which.sum())
    return "1 pair" if count == 1 else f"{count:,} pairs"


def _labels(numbers: NDArray[np.int64], facts: Facts) -> tuple[str, ...]:
    return tuple(facts.labels[number] for number in numbers)


def _classes_with(numbers: NDArray[np.int64], facts: Facts) -> str:
    """E.g. "3 classes ('a', 'b', 'c') have" with at most a few names."""
    names = _list(_labels(numbers, facts))
    return f"The class {names} has" if len(numbers) == 1 else f"{len(numbers)} classes ({names}) have"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN_LABELS])
    return shown + (", …" if len(names) > _SHOWN_LABELS else "")


def _first(numbers: Sequence[int] | NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers[:FIRST])
