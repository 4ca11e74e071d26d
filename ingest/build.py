"""The import: from an uploaded archive to packed pictures, an index, the originals, a report and findings.

The archive is read once, forwards. Each new file goes to a shard, and decoding processes read its header meanwhile.
When all names are known, labels and parts are; then the processes decode every picture once, at the side that fits
the data. What is held for each picture is a few numbers and its path.
"""

import json
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest import findings
from ingest.archives import LEFT_OUT, members
from ingest.decoders import Decoders
from ingest.duplicates import group, near_pairs
from ingest.errors import ImportRefusedError, ReportLine
from ingest.files import ShardWriter, create_images, disk_full_is_said, images_path, keep_rows, read_rows, write_index
from ingest.formats import ACCEPTED, PICTURES, sniff
from ingest.imported import SIDES, ExampleRow, Examples, Imported, ImportOptions, Originals, Progress, Report
from ingest.layout import Placed, place
from ingest.limits import MIB, Limits
from ingest.manifest import Split
from ingest.preprocess import Preprocessing, misnamed, not_a_picture
from ingest.splits import PARTS, resplit

__all__ = ["ExampleRow", "ImportOptions", "Imported", "Progress", "build", "content_hash"]

BATCH = 64  # pictures in one question to a decoding process
_PROGRESS_EVERY_S = 0.25
_READING, _DECODING = 0.45, 0.5  # shares of the time
_SHOWN_LINES = 20
_TABLE_BYTES = 256 * MIB  # of all CSV files in one archive; they are held until the end


def build(
    source: Path,
    workdir: Path,
    *,
    options: ImportOptions | None = None,
    limits: Limits | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    processes: int = 2,
) -> Imported:
    """Import the archive `source` into the empty folder `workdir`: images.npy, index.npz, originals-*.bin, report/.

    progress: called a few times a second in this thread; what it raises ends the import. The same archive, options and
    limits give the same bytes. May be called in a daemonic process. Raises ImportRefusedError (DiskFullError when the
    disk is full); the caller removes the folder then.
    """
    options, limits = options or ImportOptions(), limits or Limits()
    report = Report(workdir)
    try:
        with Decoders(workdir, limits, processes) as decoders:
            return _Import(workdir, options, limits, _Paced(progress), report, decoders).run(source)
    except ImportRefusedError as error:
        error.report = tuple(islice(report, _SHOWN_LINES))
        raise
    finally:
        report.close()


def content_hash(preprocessing: Preprocessing, labels: Sequence[str], examples: Examples) -> str:
    """Hex SHA-256 over everything that a model can learn from, in the order of the examples."""
    digest = sha256(json.dumps([preprocessing.to_json(), list(labels)]).encode())
    for row in examples:
        digest.update(b"%s\0%d\0%d\0%s" % (row.path.encode(), row.label, row.split, row.sha256))
    return digest.hexdigest()


class _Paced:
    """Passes on no more than a few calls a second."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self._progress = progress
        self._stage, self._due = "", 0.0

    def __call__(self, stage: str, done: int, total: int | None, fraction: float) -> None:
        now = time.monotonic()
        if stage != self._stage or now >= self._due:
            self._stage, self._due = stage, now + _PROGRESS_EVERY_S
            self._progress(Progress(stage, done, total, fraction))


class _Import:
    """One import under way."""

    def __init__(
        self,
        workdir: Path,
        options: ImportOptions,
        limits: Limits,
        progress: _Paced,
        report: Report,
        decoders: Decoders,
    ) -> None:
        self._workdir, self._options, self._limits = workdir, options, limits
        self._progress, self._report, self._decoders = progress, report, decoders
        self._originals = Originals()
        self._paths: list[str] = []  # of the pictures among the entries
        self._original = array("Q")  # of each path
        self._tables: list[tuple[str, bytes]] = []
        self._moved = 0  # exact copies across the given split
        self._torn = 0  # files left out because their copies contradict them
        self._disputed: list[int] = []  # originals that kept one of several labels

    def run(self, source: Path) -> Imported:
        self._read(source)
        self._sort()
        placed = place(self._paths, self._tables, self._report.add)
        self._tables.clear()
        chosen = self._choose(placed)
        self._require(len(chosen) > 0)
        paths = [self._paths[at] for at in chosen]
        original = np.array([self._original[at] for at in chosen], np.int64)
        label = np.array([placed.labels[at] for at in chosen], np.int32)
        given = np.array([placed.splits[at] for at in chosen], np.uint8)
        self._paths.clear()

        preprocessing = self._preprocessing(original)
        phash, gray, keep = self._pack(paths, original, preprocessing)
        self._require(bool(keep.any()))
        self._progress("checking", int(keep.sum()), int(keep.sum()), _READING + _DECODING)
        channels = 1 if gray[keep].all() else preprocessing.channels
        with disk_full_is_said(self._workdir):
            keep_rows(self._workdir, keep, preprocessing.side, preprocessing.channels, channels)
        preprocessing = Preprocessing(preprocessing.side, channels)
        paths = [path for path, kept in zip(paths, keep.tolist(), strict=True) if kept]
        original, label, given, phash, gray = original[keep], label[keep], given[keep], phash[keep], gray[keep]

        names, label = _sorted_labels(placed.names, label)
        if len(names) < 2:
            raise ImportRefusedError(
                f"All {len(paths):,} pictures carry the label '{names[0]}'. At least two classes are needed to learn from."
            )
        use_given = placed.given and self._options.use_given_split
        if use_given and not np.isin(given, (Split.TRAIN, Split.FREE)).any():
            raise ImportRefusedError(
                "The split that came with the data gives no picture to training. Put some into train, or import with "
                "use_given_split off."
            )
        with images_path(self._workdir).open("rb") as file:
            pairs = near_pairs(phash, lambda rows: read_rows(file, rows, preprocessing.side, preprocessing.channels))
        groups = group(pairs, label)
        split = resplit(label, groups, self._options.fractions, self._options.seed, given if use_given else None)
        with disk_full_is_said(self._workdir):
            write_index(self._workdir, label, split, groups)

        examples = Examples(paths, self._originals, original, label, split, phash)
        disputed = np.flatnonzero(np.isin(original, self._disputed)).tolist()
        actions = self._report.actions
        facts = findings.Facts(
            labels=names,
            label=label,
            split=split,
            group=groups,
            pairs=pairs,
            width=np.frombuffer(self._originals.width, np.uint32)[original],
            height=np.frombuffer(self._originals.height, np.uint32)[original],
            gray=gray,
            side=preprocessing.side,
            given=use_given,
            refused=actions["left"],
            merged=actions["merged"],
            conflicts=disputed,
            torn=self._torn,
            moved=self._moved if use_given else 0,
        )
        self._report.close()
        return Imported(
            preprocessing=preprocessing,
            labels=names,
            examples=examples,
            counts={
                "files": len(self._original),
                "examples": len(examples),
                "refused": actions["left"],
                "merged": actions["merged"],
                "mended": actions.total() - actions["left"] - actions["merged"],
            },
            histogram=_histogram(names, label, split),
            report=self._report,
            findings=findings.find(facts),
            content_hash=content_hash(preprocessing, names, examples),
        )

    def _read(self, source: Path) -> None:
        """Store every distinct picture and have its header read."""
        originals, seen = self._originals, dict[bytes, int]()
        waiting: deque[Future[list[Any]]] = deque()
        batch: list[tuple[int, int, int]] = []
        table_bytes = 0
        with ShardWriter(self._workdir) as shards, closing(members(source, self._limits, self._report.add)) as found:
            for member in found:
                self._progress("reading", len(self._paths), None, _READING * member.fraction)
                if sniff(member.data) is None:
                    if member.path.lower().endswith((".csv", ".tsv")) and member.data:
                        table_bytes += len(member.data)
                        if table_bytes > _TABLE_BYTES:
                            raise ImportRefusedError(f"The archive has more than {_TABLE_BYTES:,} bytes of CSV files.")
                        self._tables.append((member.path, member.data))
                    else:
                        self._refuse(member.path, *_why_none(member.data))
                    continue
                digest = sha256(member.data).digest()
                number = seen.get(digest[:16])
                if number is None:
                    spot = shards.append(member.data)
                    number = seen[digest[:16]] = originals.add(spot, digest)
                    batch.append(spot)
                    if len(batch) == BATCH:
                        waiting.append(self._decoders.probe(batch))
                        batch = []
                self._paths.append(member.path)
                self._original.append(number)
                while waiting and waiting[0].done():
                    self._probed(waiting.popleft())
        if batch:
            waiting.append(self._decoders.probe(batch))
        for future in waiting:
            self._probed(future)

    def _probed(self, future: Future[list[Any]]) -> None:
        for item in future.result():
            self._originals.probed(item)

    def _sort(self) -> None:
        """By path, so that the order of an archive does not matter; of equal paths the first in the archive stays."""
        order = sorted(range(len(self._paths)), key=self._paths.__getitem__)
        paths, original = self._paths, self._original
        self._paths, self._original = [], array("Q")
        for at in order:
            if self._paths and self._paths[-1] == paths[at]:
                self._refuse(paths[at], "stands in the archive twice under this name", "the first one holds")
                continue
            self._paths.append(paths[at])
            self._original.append(original[at])

    def _choose(self, placed: Placed) -> list[int]:
        """The entries that become examples, in order: placed, readable, one for each distinct file."""
        entry_of = array("q", [-1]) * len(self._originals)  # by file, not a dict: there may be a million
        copies: dict[int, list[int]] = {}
        for at, number in enumerate(self._original):
            if number in self._originals.refused:
                self._refuse(self._paths[at], *self._originals.refused[number])
            elif placed.labels[at] is not None:
                if entry_of[number] >= 0:
                    copies.setdefault(number, [entry_of[number]]).append(at)
                else:
                    entry_of[number] = at
        for number, entries in copies.items():
            entry_of[number] = self._merge(number, entries, placed)
        return sorted(at for at in entry_of if at >= 0)

    def _merge(self, number: int, entries: list[int], placed: Placed) -> int:
        """Which of several entries with the same bytes stays, -1 when their labels contradict each other."""
        votes: dict[int | None, int] = {}
        for at in entries:
            votes[placed.labels[at]] = votes.get(placed.labels[at], 0) + 1
        ranked = sorted(votes.values(), reverse=True)
        names = " and ".join(f"'{placed.names[label]}'" for label in votes if label is not None)
        if len(ranked) > 1 and ranked[0] == ranked[1]:
            for at in entries:
                other = next(entry for entry in entries if placed.labels[entry] != placed.labels[at])
                self._refuse(
                    self._paths[at],
                    f"is the same file as '{self._paths[other]}', but the labels are {names}",
                    "give it one label",
                )
            self._torn += len(entries)
            return -1
        label = max(votes, key=votes.__getitem__)
        agreed = [at for at in entries if placed.labels[at] == label]
        # What a model is measured on must not be what it learnt: of copies across a given split the test's stays.
        stays = max(
            agreed, key=lambda at: (PARTS.index(Split(placed.splits[at])) if placed.splits[at] in PARTS else -1, -at)
        )
        self._moved += len({placed.splits[at] for at in agreed} - {Split.FREE}) > 1
        for at in entries:
            if at == stays:
                continue
            if placed.labels[at] == label:
                self._report.add(
                    ReportLine(self._paths[at], f"is the same file as '{self._paths[stays]}'", "merged with it")
                )
            else:
                self._refuse(
                    self._paths[at],
                    f"is the same file as '{self._paths[stays]}', but the labels are {names}",
                    "most copies have the other label",
                )
        if len(votes) > 1:
            self._disputed.append(number)
        return stays

    def _preprocessing(self, original: NDArray[np.int64]) -> Preprocessing:
        """The largest side that half of the pictures have, and gray when no header speaks of colour."""
        width = np.frombuffer(self._originals.width, np.uint32)[original]
        height = np.frombuffer(self._originals.height, np.uint32)[original]
        usual = float(np.median(np.minimum(width, height)))
        side = max(side for side in SIDES if side == SIDES[0] or side <= min(usual, self._options.max_side))
        colour = np.frombuffer(self._originals.colour, np.uint8)[original].any()
        return Preprocessing(side, 3 if colour else 1)

    def _pack(
        self, paths: Sequence[str], original: NDArray[np.int64], preprocessing: Preprocessing
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Decode everything into images.npy. Returns hashes, which pictures are gray, which are readable."""
        count, known = len(original), self._originals
        create_images(self._workdir, count, preprocessing.side, preprocessing.channels)
        phash, gray, keep = np.zeros(count, np.uint64), np.zeros(count, np.bool_), np.ones(count, np.bool_)
        waiting: deque[tuple[int, Future[list[Any]]]] = deque()

        def take() -> None:
            row, future = waiting.popleft()
            for at, item in enumerate(future.result(), row):
                number = int(original[at])
                if isinstance(item, dict):
                    keep[at] = False
                    self._refuse(paths[at], item["reason"], item["mend"])
                    continue
                phash[at], gray[at] = item
                self._mended(paths[at], number)
            self._progress("decoding", row, count, _READING + _DECODING * row / count)

        for row in range(0, count, BATCH):
            numbers = original[row : row + BATCH].tolist()
            places = [known.place(number) for number in numbers]
            waiting.append((row, self._decoders.pack(preprocessing, row, places, hashed=True)))
            while waiting and waiting[0][1].done():
                take()
        while waiting:
            take()
        return phash, gray, keep

    def _mended(self, path: str, number: int) -> None:
        kind = PICTURES[self._originals.format[number]]
        if (extension := misnamed(path, kind)) is not None:
            self._report.add(ReportLine(path, f"is named .{extension}, but is {kind}", f"read as {kind}"))
        for mend in self._originals.mends(number):
            self._report.add(ReportLine(path, *mend.split(": ", 1)))

    def _refuse(self, path: str, reason: str, mend: str) -> None:
        self._report.add(ReportLine(path, reason, f"{LEFT_OUT}; {mend}"))

    def _require(self, usable: bool) -> None:
        if usable:
            return
        refused = self._report.actions["left"]
        if not refused:
            raise ImportRefusedError(
                f"There is no picture in the archive. Put {ACCEPTED} pictures into one folder for each class and pack these."
            )
        line = next(line for line in self._report if line.action.startswith(LEFT_OUT))
        raise ImportRefusedError(
            f"No picture of the archive can be used: {refused:,} items were left out. The first: '{line.path}' {line.reason}."
        )


def _why_none(data: bytes) -> tuple[str, str]:
    error = not_a_picture(data)
    return error.reason, error.mend


def _sorted_labels(names: Sequence[str], label: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int32]]:
    """The labels in use, sorted, and the examples' labels as indices into them."""
    used = sorted((names[number], number) for number in np.unique(label).tolist())
    to = np.zeros(len(names), np.int32)
    to[[number for _, number in used]] = np.arange(len(used), dtype=np.int32)
    return [name for name, _ in used], to[label]


def _histogram(names: Sequence[str], label: NDArray[np.int32], split: NDArray[np.uint8]) -> dict[str, dict[str, int]]:
    return {
        part.name.lower(): dict(
            zip(names, np.bincount(label[split == part], minlength=len(names)).tolist(), strict=True)
        )
        for part in PARTS
    }
