"""The values around an import: what is asked for, how far it is, and what it made."""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.errors import ReportLine
from ingest.files import disk_full_is_said
from ingest.findings import Finding
from ingest.formats import PICTURES
from ingest.preprocess import Preprocessing
from ingest.splits import check_fractions

SIDES = (28, 32, 48, 64, 96, 128)  # that pictures are packed to


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """fractions: shares of train, validation and test for what has no part yet. seed: of that division.

    use_given_split: whether train/validation/test folders or a manifest's split column count.
    max_side: pictures are packed no larger. Raises ValueError for what makes no sense.
    """

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    use_given_split: bool = True
    max_side: int = SIDES[-1]

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        if not SIDES[0] <= self.max_side <= SIDES[-1]:
            raise ValueError(f"max_side must be {SIDES[0]} to {SIDES[-1]}, not {self.max_side}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ImportOptions":
        """Missing fields take their defaults. Raises TypeError for unknown ones."""
        known = dict(value)
        if "fractions" in known:
            train, validation, test = known["fractions"]
            known["fractions"] = (float(train), float(validation), float(test))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Progress:
    """stage: "reading", "decoding", "checking". done, total: pictures; total None while unknown. fraction: of the whole."""

    stage: str
    done: int
    total: int | None
    fraction: float


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One picture of the data set. label: index into `Imported.labels`. phash: 64 bits, signed.

    width, height: as seen, EXIF applied. shard, offset, length: where the original's bytes are.
    """

    path: str
    label: int
    split: int
    sha256: bytes
    phash: int
    width: int
    height: int
    size_bytes: int
    format: str
    shard: int
    offset: int
    length: int


class Originals:
    """The distinct files of an archive, a few numbers each: an object for each would not fit the memory of an import."""

    def __init__(self) -> None:
        self.shard, self.offset, self.length = array("I"), array("Q"), array("Q")
        self.digests = bytearray()
        self.format, self.width, self.height = array("B"), array("I"), array("I")
        self.colour = bytearray()
        self._mends = array("H")  # index into the table: few sets of mends are in use
        self._mend_table: list[tuple[str, ...]] = [()]
        self.refused: dict[int, tuple[str, str]] = {}  # reason, mend

    def __len__(self) -> int:
        return len(self.shard)

    def add(self, place: tuple[int, int, int], digest: bytes) -> int:
        self.shard.append(place[0])
        self.offset.append(place[1])
        self.length.append(place[2])
        self.digests += digest
        return len(self.shard) - 1

    def probed(self, item: Mapping[str, Any]) -> None:
        """Take the next answer of the decoders, in the order of `add`."""
        if "reason" in item:
            self.refused[len(self.format)] = (item["reason"], item["mend"])
            item = {"format": PICTURES[0], "width": 0, "height": 0, "colour": False, "mends": ()}
        self.format.append(PICTURES.index(item["format"]))
        self.width.append(item["width"])
        self.height.append(item["height"])
        self.colour.append(item["colour"])
        mends = tuple(item["mends"])
        if mends not in self._mend_table:
            self._mend_table.append(mends)
        self._mends.append(self._mend_table.index(mends))

    def mends(self, number: int) -> tuple[str, ...]:
        return self._mend_table[self._mends[number]]

    def place(self, number: int) -> tuple[int, int, int]:
        return self.shard[number], self.offset[number], self.length[number]

    def digest(self, number: int) -> bytes:
        return bytes(self.digests[32 * number : 32 * number + 32])


class Examples:
    """The examples in the order of `images.npy`; each is made when it is asked for."""

    def __init__(
        self,
        paths: Sequence[str],
        originals: Originals,
        original: NDArray[np.int64],
        label: NDArray[np.int32],
        split: NDArray[np.uint8],
        phash: NDArray[np.uint64],
    ) -> None:
        self._paths, self._originals, self._original = paths, originals, original
        self._label, self._split, self._phash = label, split, phash.view(np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, at: int) -> ExampleRow:
        known, number = self._originals, int(self._original[at])
        shard, offset, length = known.place(number)
        return ExampleRow(
            path=self._paths[at],
            label=int(self._label[at]),
            split=int(self._split[at]),
            sha256=known.digest(number),
            phash=int(self._phash[at]),
            width=known.width[number],
            height=known.height[number],
            size_bytes=length,
            format=PICTURES[known.format[number]],
            shard=shard,
            offset=offset,
            length=length,
        )

    def __iter__(self) -> Iterator[ExampleRow]:
        return (self[at] for at in range(len(self)))


class Report:
    """One line for each item refused or mended. Kept in a file of the working folder: there may be very many."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        folder = workdir / "report"
        folder.mkdir()
        self._path = folder / "lines.jsonl"
        self._file = self._path.open("w", encoding="utf-8")
        self.actions: Counter[str] = Counter()  # by the first word of the action

    def add(self, line: ReportLine) -> None:
        with disk_full_is_said(self._workdir):
            self._file.write(json.dumps([line.path, line.reason, line.action]) + "\n")
        self.actions[line.action.split(" ", 1)[0]] += 1

    def close(self) -> None:
        with disk_full_is_said(self._workdir):
            self._file.close()

    def __len__(self) -> int:
        return self.actions.total()

    def __iter__(self) -> Iterator[ReportLine]:
        if not self._file.closed:
            self._file.flush()
        with self._path.open(encoding="utf-8") as lines:
            for line in lines:
                yield ReportLine(*json.loads(line))


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made, besides the files in its folder.

    labels: names, sorted; an example's label is an index into them. counts: files of the archive that were read, and how
    many were refused, merged, mended, and became examples. histogram: part → label → examples.
    content_hash: hex SHA-256 over preprocessing, labels and every example's path, label, part and file.
    """

    preprocessing: Preprocessing
    labels: list[str]
    examples: Examples
    counts: dict[str, int]
    histogram: dict[str, dict[str, int]]
    report: Report
    findings: list[Finding]
    content_hash: str
