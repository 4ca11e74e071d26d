"""From the bytes of a picture to the array a network sees: the one way, for import, training and serving alike.

The content decides the format. Palette, transparency (on white), 16 bits, CMYK and EXIF orientation are dealt with
here and nowhere else. A picture is squashed to a square, with antialiasing: nothing is cut off, and what a network
learnt on is what it is asked.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.errors import UnreadableImageError
from ingest.formats import ACCEPTED, EXTENSIONS, archive_kind, describe, sniff
from ingest.limits import Limits

VERSION = 1  # raised whenever the same bytes would become other numbers
STRIP_PIXELS = 1 << 20  # a large picture is brought to RGB this many pixels at a time, not whole beside itself
LARGE_PIXELS = 8_000_000  # decoded, such a picture takes up to 4 bytes a pixel, several times over
REDUCE_GAP = 2  # box-averaged by a whole factor down to no less than this many times the side, then bicubic

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF tag 0x0112
_EXIF_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What every picture of a data set becomes: uint8 of `side` × `side`, 1 (gray) or 3 (RGB) channels."""

    side: int
    channels: int

    def __post_init__(self) -> None:
        if not 1 <= self.side <= 1024 or self.channels not in (1, 3):
            raise ValueError(f"side must be 1 to 1024 and channels 1 or 3, not {self.side} and {self.channels}")

    def to_json(self) -> dict[str, int]:
        return {"version": VERSION, "side": self.side, "channels": self.channels}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Preprocessing":
        if value.get("version") != VERSION:
            raise ValueError(f"preprocessing version {value.get('version')!r} is not known, this is {VERSION}")
        return cls(int(value["side"]), int(value["channels"]))


@dataclass(frozen=True, slots=True)
class Probe:
    """What a picture says of itself before it is decoded.

    width, height: pixels as seen, EXIF orientation applied. colour: may hold colour (a palette counts as colour).
    mends: what decoding will have to give up, e.g. "has 16 bits a channel: reduced to 8".
    """

    format: str
    width: int
    height: int
    colour: bool
    mends: tuple[str, ...]


def probe(data: bytes, limits: Limits) -> Probe:
    """Read the header alone. Raises UnreadableImageError."""
    with _open(data, limits) as (image, kind):
        mends = []
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            mends.append("has transparency: laid on white")
        if image.mode.startswith("I") or (kind == "PNG" and data[24:25] == b"\x10"):
            mends.append("has 16 bits a channel: reduced to 8")
        if image.mode == "CMYK":
            mends.append("is in CMYK: turned to RGB")
        width, height, colour = *image.size, image.mode not in _GRAY_MODES
        if getattr(image, "is_animated", False) and kind != "JPEG":  # a JPEG with a second view is no animation
            mends.append("is an animation: its first frame taken")
        if _orientation(image) >= 5:
            width, height = height, width
        return Probe(kind, width, height, colour, tuple(mends))


def decode(data: bytes, channels: int, limits: Limits | None = None) -> Image.Image:
    """The whole picture, upright, in mode L (`channels` 1) or RGB (3). Raises UnreadableImageError."""
    with _open(data, limits or Limits()) as (image, _):
        image.load()
        flat = _flatten(image, channels)
        turn = _TURNS.get(_orientation(image))
        return flat if turn is None else flat.transpose(turn)


def to_array(
    data: bytes,
    preprocessing: Preprocessing,
    limits: Limits | None = None,
    when_large: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> NDArray[np.uint8]:
    """The picture as a network sees it: uint8 (side, side, channels). Raises UnreadableImageError.

    when_large: entered while a picture of more than LARGE_PIXELS is decoded.
    """
    side, channels = preprocessing.side, preprocessing.channels
    with (
        _open(data, limits or Limits()) as (image, _),
        when_large() if image.width * image.height > LARGE_PIXELS else nullcontext(),
    ):
        image.draft(None, (REDUCE_GAP * side, REDUCE_GAP * side))  # JPEG: decoded at 1/2, 1/4, 1/8 where that is enough
        image.load()
        small = _squash(image, (side, side), channels)
        turn = _TURNS.get(_orientation(image))
        if turn is not None:
            small = small.transpose(turn)  # the same before and after squashing, and cheaper after
        return np.asarray(small, np.uint8).reshape(side, side, channels)


def preview(data: bytes, longest: int, limits: Limits | None = None) -> Image.Image:
    """The picture for people: upright, RGB, as it is or reduced to `longest` pixels. Raises UnreadableImageError."""
    with _open(data, limits or Limits()) as (image, _):
        scale = min(1.0, longest / max(image.size))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image.draft(None, (REDUCE_GAP * size[0], REDUCE_GAP * size[1]))
        image.load()
        small = _squash(image, size, 3)
        turn = _TURNS.get(_orientation(image))
        return small.copy() if turn is None else small.transpose(turn)  # a copy: `image` is closed here


def squashed(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """A decoded, upright picture, uint8 (H, W, channels), as a network sees it: uint8 (side, side, channels)."""
    side, channels = preprocessing.side, preprocessing.channels
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    return np.asarray(_squash(image, (side, side), channels), np.uint8).reshape(side, side, channels)


def misnamed(path: str, kind: str) -> str | None:
    """The extension of `path` when it promises another format than `kind`."""
    _, dot, extension = path.rpartition(".")
    promised = EXTENSIONS.get(extension.lower()) if dot else None
    return None if promised is None or promised == kind else extension


def not_a_picture(data: bytes) -> UnreadableImageError:
    """Why bytes that `sniff` does not know are refused, and what would help."""
    if not data:
        return UnreadableImageError("is empty (0 bytes)", "upload it again")
    found = describe(data)
    if archive_kind(data) is not None:
        return UnreadableImageError(f"is {found} inside the archive", "unpack it and put its pictures in folders")
    if found.endswith("picture") or found.endswith("drawing"):
        return UnreadableImageError(f"is {found}", f"convert it to {ACCEPTED}")
    return UnreadableImageError(f"is not a picture but {found}", f"accepted are {ACCEPTED}")


@contextmanager
def _open(data: bytes, limits: Limits) -> Iterator[tuple[Image.Image, str]]:
    """The opened, not yet decoded image and its format; everything a decoder may throw leaves as UnreadableImageError."""
    kind = sniff(data)
    if kind is None:
        raise not_a_picture(data)
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            width, height = image.size
            if width * height > _max_pixels(kind, limits):
                raise _too_many_pixels(f"{width}×{height} = {width * height:,}", kind, limits)
            if width < 1 or height < 1:
                raise UnreadableImageError(f"is {width}×{height} pixels", "upload a picture with content")
            yield image, kind
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise UnreadableImageError("needs more memory than there is", "scale it down") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_many_pixels(f"{int(pixels[1]):,}" if pixels else "too many", kind, limits) from error
    except Exception as error:  # decoders throw OSError, SyntaxError, struct.error, KeyError … at damaged files
        raise UnreadableImageError(
            f"is damaged or cut short ({kind}: {_first_line(error)})", "upload it again"
        ) from error


def _max_pixels(kind: str, limits: Limits) -> int:
    """libwebp's decoder holds four copies of a picture: 50 million pixels would take 800 MB."""
    return limits.max_pixels // 2 if kind == "WEBP" else limits.max_pixels


def _too_many_pixels(pixels: str, kind: str, limits: Limits) -> UnreadableImageError:
    limit = f"the limit is {_max_pixels(kind, limits):,}" + (" for WebP" if kind == "WEBP" else "")
    return UnreadableImageError(f"has {pixels} pixels, {limit}", "scale it down")


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return text[:100] if text and "BytesIO" not in text else type(error).__name__


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where there is none or none that can be read."""
    if not any(key in image.info for key in _EXIF_KEYS):
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001  # a damaged EXIF block is no reason to lose the picture
        return 1
    return value if isinstance(value, int) else 1


def _squash(image: Image.Image, size: tuple[int, int], channels: int) -> Image.Image:
    """`image` in mode L or RGB, of `size` (width, height), without ever holding a second picture of its size."""
    width, height = image.size
    by = (max(1, width // (REDUCE_GAP * size[0])), max(1, height // (REDUCE_GAP * size[1])))
    if by == (1, 1) and width * height <= STRIP_PIXELS:
        flat = _flatten(image, channels)
        return flat if flat.size == size else flat.resize(size, Image.Resampling.BICUBIC)
    flat = Image.new("L" if channels == 1 else "RGB", (-(-width // by[0]), -(-height // by[1])))
    rows = by[1] * max(1, STRIP_PIXELS // (width * by[1]))
    for top in range(0, height, rows):
        strip = _flatten(image.crop((0, top, width, min(height, top + rows))), channels)
        flat.paste(strip.reduce(by), (0, top // by[1]))
    box = (0.0, 0.0, width / by[0], height / by[1])  # the last column and row may stand for less than a whole block
    return flat.resize(size, Image.Resampling.BICUBIC, box=box)


def _flatten(image: Image.Image, channels: int) -> Image.Image:
    """`image` in mode L or RGB: transparency on white, 16 bits to their upper 8."""
    target = "L" if channels == 1 else "RGB"
    if image.mode == target and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)  # Pillow's own conversion of some 16-bit modes clips at 255
        gray = Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8))
        return gray if target == "L" else gray.convert(target)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, (255, 255, 255))
        canvas.paste(clear, mask=clear.getchannel("A"))
        return canvas.convert(target)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return image.convert(target)
