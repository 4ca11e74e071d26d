"""What an import may cost. One value, handed down to everything that reads what a stranger sent."""

from dataclasses import dataclass

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on an archive and its pictures.

    max_entries: entries of the archive, folders and rubbish included.
    max_unpacked_bytes: sum over all entries after unpacking.
    max_ratio: unpacked over packed size, looked at once `ratio_from_bytes` are unpacked: small things compress oddly.
    max_file_bytes: one entry, unpacked. It is held in memory.
    max_pixels: width × height of one picture, half of it for WebP, which takes the most memory. Pillow's own bound of
    178 million holds besides.
    max_depth: folders above a file. max_name_bytes: a whole path in UTF-8; one part of it may have 255.
    """

    max_entries: int = 2_000_000
    max_unpacked_bytes: int = 200 * GIB
    max_ratio: float = 200.0
    ratio_from_bytes: int = 64 * MIB
    max_file_bytes: int = 64 * MIB
    max_pixels: int = 50_000_000
    max_depth: int = 16
    max_name_bytes: int = 1024
