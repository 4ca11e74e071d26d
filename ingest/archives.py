"""From an uploaded file to its entries: container told by content, every entry judged before it is passed on."""

import re
import tarfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ingest.errors import ImportRefusedError, ReportLine
from ingest.formats import archive_kind, describe, sniff
from ingest.limits import Limits
from ingest.names import Name, clean, is_rubbish, printable
from ingest.streams import PACKINGS, Unpacked
from ingest.zips import EntryError, Zip

ACCEPTED = "a zip, tar, tar.gz, tar.xz or tar.bz2 archive"
LEFT_OUT = "left out"
_OCTAL = re.compile(rb"[0-7]+")
Report = Callable[[ReportLine], None]


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive. path: cleaned, unique only by luck. fraction: how much of the archive is read, 0 to 1."""

    path: str
    data: bytes
    fraction: float


def members(source: Path, limits: Limits, report: Report) -> Generator[Member, None, None]:
    """The files of the archive, in its order. Folders and rubbish are passed over, everything else that is not read
    goes to `report`. Raises ImportRefusedError when the whole must be refused. Closing it closes the archive.
    """
    with source.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ImportRefusedError(f"The upload is empty (0 bytes). Send {ACCEPTED}.")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        found = _zip_members(source, limits)
    elif any(head.startswith(magic) for magic, *_ in PACKINGS) or head[257:262] == b"ustar" or _is_tar_header(head):
        found = _tar_members(source, limits, report)
    elif sniff(head) is not None:
        raise ImportRefusedError(
            f"The upload is a single {sniff(head)} picture. Send {ACCEPTED} of pictures in class folders."
        )
    elif archive_kind(head) is None and _ends_as_zip(source):
        found = _zip_members(source, limits)
    else:
        raise ImportRefusedError(f"The upload is {describe(head)}. Send {ACCEPTED}.")
    with closing(found):  # at once, also when a refusal leaves it half read
        yield from _judged(found, limits, report)


@dataclass(frozen=True, slots=True)
class _Raw:
    """An entry before it is judged. refused: why its bytes are not to be read; empty where they are."""

    name: Name
    read: Callable[[], bytes]
    size_bytes: int
    fraction: float
    folder: bool = False
    refused: str = ""


def _judged(found: Iterator[_Raw], limits: Limits, report: Report) -> Iterator[Member]:
    rubbish: Counter[str] = Counter()
    entries = 0
    for raw in found:
        entries += 1
        if entries > limits.max_entries:
            raise ImportRefusedError(
                f"The archive has more than {limits.max_entries:,} entries, the most that is accepted."
            )
        if raw.folder:
            continue
        path = raw.name.path
        if raw.name.refused is None and is_rubbish(path):
            rubbish["__MACOSX" if path.startswith("__MACOSX/") else path.rsplit("/", 1)[-1][:40]] += 1
            continue
        refused = raw.name.refused or raw.refused
        if not refused and raw.size_bytes > limits.max_file_bytes:
            refused = f"has {raw.size_bytes:,} bytes, the limit is {limits.max_file_bytes:,}"
        if refused:
            report(ReportLine(path, refused, LEFT_OUT))
            continue
        try:
            data = raw.read()
        except EntryError as error:
            report(ReportLine(path, str(error), LEFT_OUT))
            continue
        if raw.name.mended:
            report(ReportLine(path, raw.name.mended, f"taken as '{printable(path)}'"))
        yield Member(path, data, raw.fraction)
    if rubbish:
        names = ", ".join(name for name, _ in rubbish.most_common(3))
        report(ReportLine(names, f"{rubbish.total()} hidden files or leftovers of a file manager", "passed over"))
    if not entries:
        raise ImportRefusedError("The archive is empty. Put pictures into one folder for each class and pack these.")


def _zip_members(source: Path, limits: Limits) -> Generator[_Raw, None, None]:
    packed = source.stat().st_size
    with source.open("rb") as file:
        archive = Zip(file)
        unpacked = 0
        for number, entry in enumerate(archive.entries(), 1):
            unpacked += entry.size_bytes
            if unpacked > limits.max_unpacked_bytes:
                raise ImportRefusedError(
                    f"The archive unpacks to more than {limits.max_unpacked_bytes:,} bytes, the most that is accepted."
                )
            if unpacked > max(limits.ratio_from_bytes, limits.max_ratio * packed):
                raise ImportRefusedError(
                    f"The archive of {packed:,} bytes unpacks to more than {limits.max_ratio:g} times its size: it looks "
                    "like a decompression bomb and was not imported."
                )
            yield _Raw(
                clean(entry.name, limits, fallback="cp437"),
                partial(archive.read, entry),
                entry.size_bytes,
                min(1.0, number / max(1, archive.count)),
                entry.kind == "folder",
                {"link": "is a link", "special": "is a device or a pipe"}.get(entry.kind, ""),
            )


def _tar_members(source: Path, limits: Limits, report: Report) -> Generator[_Raw, None, None]:
    with Unpacked(source, limits) as stream:
        try:
            archive = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]  # reads forwards only, with what Unpacked has
        except tarfile.TarError as error:
            if stream.tell() == 0:
                raise ImportRefusedError(f"The {stream.packing} file is empty. Send {ACCEPTED}.") from error
            raise ImportRefusedError(
                f"The upload is a {stream.packing or 'tar'} file, but no tar archive is in it ({error}). Send {ACCEPTED}."
            ) from error
        entry = archive.next()
        while entry is not None:
            if entry.size < 0:
                raise ImportRefusedError(
                    "The tar archive is damaged (an entry of negative size). Pack and send it again."
                )
            yield _Raw(
                clean(entry.name.encode("utf-8", "surrogateescape"), limits, fallback="latin-1"),
                partial(_take, stream, entry.size),
                entry.size,
                stream.fraction(),
                entry.isdir(),
                _tar_kind(entry),
            )
            entry = _next(archive, stream, report)
        stream.drain()


def _take(stream: Unpacked, count: int) -> bytes:
    try:
        return stream.take(count)
    except EOFError as error:
        raise _cut_off() from error


def _next(archive: tarfile.TarFile, stream: Unpacked, report: Report) -> tarfile.TarInfo | None:
    """`TarFile.next`, but it keeps no list of what it has seen and does not take a damaged header for the end."""
    try:
        stream.seek(archive.offset)
    except EOFError as error:
        raise _cut_off() from error
    block = stream.peek(tarfile.BLOCKSIZE)
    if not block:
        report(ReportLine("(the archive)", "has no end marker; it may have been cut off", "imported as far as it goes"))
        return None
    if len(block) < tarfile.BLOCKSIZE:
        raise _cut_off()
    if block == tarfile.NUL * tarfile.BLOCKSIZE:  # ends every tar
        return None
    if not archive.pax_headers and (entry := _ordinary(block)) is not None:
        stream.skip(tarfile.BLOCKSIZE)
        archive.offset = stream.tell() + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return entry
    try:
        return tarfile.TarInfo.fromtarfile(archive)
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise ImportRefusedError(f"The tar archive is damaged ({error}). Pack and send it again.") from error


def _ordinary(block: bytes) -> tarfile.TarInfo | None:
    """What tarfile makes of the header of a plain file with a short name, in a fifth of its time; None for all others."""
    size, checksum = block[124:135], block[148:154]
    if block[156] not in b"0\0" or block[257:262] != b"ustar" or block[345] or block[99]:
        return None
    if not _OCTAL.fullmatch(size) or not _OCTAL.fullmatch(checksum):
        return None
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != int(checksum, 8):
        return None
    name = block[: block.index(0)]
    if not name or name.endswith(b"/"):
        return None
    entry = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    entry.size = int(size, 8)
    return entry


def _cut_off() -> ImportRefusedError:
    return ImportRefusedError(
        "The tar archive ends in the middle: the upload was cut off or the file is incomplete. Send it again."
    )


def _tar_kind(entry: tarfile.TarInfo) -> str:
    """Why an entry is not read, empty for plain files."""
    if entry.issym() or entry.islnk():
        return "is a link"
    if entry.ischr() or entry.isblk() or entry.isfifo():
        return "is a device or a pipe"
    if entry.issparse():
        return "is a sparse file"
    return "" if entry.isreg() else "is no plain file"


def _is_tar_header(head: bytes) -> bool:
    """By its checksum: the oldest tars carry no magic. An empty tar is zeros alone."""
    if head == tarfile.NUL * tarfile.BLOCKSIZE:
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _ends_as_zip(source: Path) -> bool:
    """A zip may begin with anything, e.g. a program that unpacks it."""
    with source.open("rb") as file:
        try:
            Zip(file)
        except ImportRefusedError:
            return False
    return True
