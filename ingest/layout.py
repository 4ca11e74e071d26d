"""Where the labels and the parts of a data set come from: folders, or a manifest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ingest import manifest
from ingest.errors import ImportRefusedError, ReportLine
from ingest.manifest import SPLIT_WORDS, Split

LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Placed:
    """Labels and given splits of all pictures, in the order of their paths.

    labels: an index into `names`, or None for a picture that has no place. given: whether any part was given.
    """

    names: list[str]
    labels: list[int | None]
    splits: bytearray
    given: bool


def place(paths: Sequence[str], manifests: Sequence[tuple[str, bytes]], report: Callable[[ReportLine], None]) -> Placed:
    """`paths`: the pictures of the archive. `manifests`: path and content of each CSV file in it.

    Raises ImportRefusedError when there are two manifests.
    """
    placed = _by_manifest(paths, manifests, report)
    return placed if placed is not None else _by_folders(paths, report)


class _Names:
    """Labels numbered as they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, label: str) -> int:
        return self.numbers.setdefault(label, len(self.numbers))


def _by_manifest(
    paths: Sequence[str], manifests: Sequence[tuple[str, bytes]], report: Callable[[ReportLine], None]
) -> Placed | None:
    places = {path: at for at, path in reversed(list(enumerate(paths)))}  # of equal paths the first
    speaking = []
    for name, data in manifests:
        find = _Finder(places, name.rpartition("/")[0])
        if any(row.problem is None and find(row) is not None for row in manifest.read(data)):
            speaking.append((name, data, find))
        else:
            report(ReportLine(name, "is a table, but no row of it names a picture of the archive", "passed over"))
    if not speaking:
        return None
    if len(speaking) > 1:
        files = ", ".join(name for name, *_ in speaking)
        raise ImportRefusedError(f"The archive has {len(speaking)} manifests ({files}). Leave one, or join them.")
    name, data, find = speaking[0]
    names, labels, splits = _Names(), [None] * len(paths), bytearray([Split.FREE]) * len(paths)
    found: list[int | None] = list(labels)
    for row in manifest.read(data):
        where = f"{name}:{row.line}"
        if row.problem is not None:
            report(ReportLine(where, row.problem, LEFT_OUT))
            continue
        at = find(row)
        if at is None:
            report(ReportLine(where, f"names '{row.path[:200]}', which is no picture of the archive", LEFT_OUT))
        elif found[at] is not None:
            same = names.numbers.get(row.label) == found[at]
            reason = "a second time" if same else f"again, with another label ('{row.label}')"
            report(ReportLine(where, f"names '{row.path[:200]}' {reason}", "the first row holds"))
        else:
            found[at], splits[at] = names.number(row.label), row.split
    for at, label in enumerate(found):
        if label is None:
            report(ReportLine(paths[at], f"is not named in {name}", LEFT_OUT))
    return Placed(list(names.numbers), found, splits, any(split != Split.FREE for split in splits))


class _Finder:
    """From a path in a manifest to a picture: beside the manifest, from the top, or by the end of a foreign address."""

    def __init__(self, places: dict[str, int], folder: str) -> None:
        self._places = places
        self._prefix = f"{folder}/" if folder else ""

    def __call__(self, row: manifest.Row) -> int | None:
        path = row.path
        while path:
            for candidate in (self._prefix + path, path):
                if (at := self._places.get(candidate)) is not None:
                    return at
            path = path.partition("/")[2] if row.foreign else ""
        return None


def _by_folders(paths: Sequence[str], report: Callable[[ReportLine], None]) -> Placed:
    skip = _wrapping(paths)
    words, inner = set(), set()
    for path in paths:
        parts = path.split("/")[skip:]
        if len(parts) >= 2 and parts[0].lower() in SPLIT_WORDS:
            words.add(parts[0])
            if len(parts) >= 3:
                inner.add(parts[0])
    in_parts = bool(words) and words == inner  # a class may be called "test": then it holds pictures, not folders
    names, splits = _Names(), bytearray()
    labels: list[int | None] = []
    for path in paths:
        label, split, problem = None, Split.FREE, None
        rest = path.split("/")[skip:]
        if in_parts and rest[:1] and rest[0] in words:
            split, rest = SPLIT_WORDS[rest[0].lower()], rest[1:]
        elif in_parts:
            problem = f"lies in none of the folders {', '.join(sorted(words))}"
        if problem is None:
            label = manifest.clean_label(rest[0]) if len(rest) > 1 else None
            problem = "lies in no class folder" if label is None else manifest.label_problem(label)
        if problem is not None:
            report(ReportLine(path, problem, LEFT_OUT))
        labels.append(names.number(label) if problem is None and label is not None else None)
        splits.append(split)
    return Placed(list(names.numbers), labels, splits, in_parts)


def _wrapping(paths: Sequence[str]) -> int:
    """How many leading folders hold everything that lies in folders, with more folders below: they are no classes."""
    skip = 0
    while True:
        tops, deeper = set(), False
        for path in paths:
            parts = path.split("/", skip + 2)[skip:]
            if len(parts) >= 2:
                tops.add(parts[0])
                deeper = deeper or len(parts) >= 3
            if len(tops) > 1:
                return skip
        if not tops or not deeper:
            return skip
        skip += 1
