"""Pictures and archives made on the spot, good and bad."""

import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Files = Mapping[str, bytes]


def noise(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    """A colour picture unlike that of any other seed: large soft blots."""
    small = np.random.RandomState(seed).randint(0, 256, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def picture(seed: int, kind: str = "PNG", width: int = 32, height: int = 32) -> bytes:
    return encoded(noise(seed, width, height), kind)


def pictures(*labels: str, each: int = 4, kind: str = "PNG", first: int = 0) -> dict[str, bytes]:
    """`each` pictures in a folder for each label, all different."""
    return {
        f"{label}/{n}.{kind.lower()}": picture(first + 1000 * at + n, kind)
        for at, label in enumerate(labels)
        for n in range(each)
    }


def zip_of(path: Path, files: Files, *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tar_of(path: Path, files: Files, mode: str = "w") -> Path:
    """mode: "w", "w:gz", "w:xz", "w:bz2"."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def packed(folder: Path, container: str, files: Files) -> Path:
    """container: "zip", "tar", "tar.gz", "tar.xz", "tar.bz2"."""
    path = folder / f"upload.{container}"
    if container == "zip":
        return zip_of(path, files)
    return tar_of(path, files, f"w:{container[4:]}" if container != "tar" else "w")


def zip_with_link(path: Path, name: str, target: str, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for other, data in files.items():
            archive.writestr(other, data)
        entry = zipfile.ZipInfo(name)
        entry.create_system = 3
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, target)
    return path


def locked(path: Path) -> Path:
    """Set the bit that says "encrypted" in every header of a zip."""
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.find(signature)
        while place >= 0:
            data[place + at] |= 1
            place = data.find(signature, place + 4)
    path.write_bytes(data)
    return path


def huge_png(width: int, height: int) -> bytes:
    """A valid PNG of one colour that unpacks to gigabytes while its file is small: its rows are never made here."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width)) for _ in range(64)) + packer.flush()
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
