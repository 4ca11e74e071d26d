"""What bytes are, told by their first bytes. The extension of a name is never asked."""

import codecs

PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
EXTENSIONS = {
    "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG",
    "png": "PNG", "webp": "WEBP", "bmp": "BMP", "dib": "BMP", "gif": "GIF",
}  # fmt: skip
ACCEPTED = "JPEG, PNG, WebP, BMP or GIF"

_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes of the info header in use; "BM" alone may begin any text
_OTHERS = (
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"8BPS", "a Photoshop document"),
    (b"\x00\x00\x01\x00", "an icon file"),
    (b"%PDF", "a PDF document"),
    (b"<svg", "an SVG drawing"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
_ARCHIVES = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"(\xb5/\xfd", "a Zstandard file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
)


def sniff(data: bytes) -> str | None:
    """The picture format of `data` (one of PICTURES), None for everything else. Looks at 18 bytes."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return None


def archive_kind(data: bytes) -> str | None:
    """What archive or packed file begins with `data` (512 bytes are enough), None when it is none."""
    for magic, kind in _ARCHIVES:
        if data.startswith(magic):
            return kind
    return "a tar archive" if data[257:262] == b"ustar" else None


def describe(data: bytes) -> str:
    """A noun phrase for bytes that are no picture: "a TIFF picture", "a text file", "no known format"."""
    if (archive := archive_kind(data)) is not None:
        return archive
    for magic, kind in _OTHERS:
        if data.startswith(magic):
            return kind
    if data[4:8] == b"ftyp":
        return "an AVIF picture" if data[8:12] in (b"avif", b"avis") else "a HEIC picture or a film"
    head = data[:512]
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if b"<svg" in text:
        return "an SVG drawing"
    if b"\x00" not in head and _is_utf8(head):
        return "a text file"
    return "no known format"


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental: the cut may fall inside a letter
    except UnicodeDecodeError:
        return False
    return True
