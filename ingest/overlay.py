"""Numbers over the places of a picture as a picture: drawn over it for people to look at."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST_PX = 512  # of the drawn picture; what is larger is reduced
SHORTEST_PX = 256  # smaller pictures are enlarged by a whole factor to about this, their pixels left square
# ColorBrewer's YlOrRd and Blues, light to dark (Harrower and Brewer 2003): each falls steadily in lightness, and warm
# against cold stays apart for all common kinds of colour blindness.
_FOR = ((255, 237, 160), (254, 178, 76), (252, 78, 42), (189, 0, 38))
_AGAINST = ((198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
_OPAQUE = 0.85  # of the strongest colour: the picture stays to be seen below it
_FADED = (70, 215)  # black and white of the picture below: both colours are seen on both


def overlay(picture: Image.Image, heat: NDArray[np.floating], smooth_px: float = 0.0, full_from: float = 0.0) -> bytes:
    """A PNG of `picture`, gray and faded, under `heat`: what is above zero in warm colours, what is below in blue.

    picture: in any size, upright. heat: finite (h, w), stretched over the whole picture; the strongest value gets the full
    colour, and zero leaves the picture as it is. smooth_px: how far heat is blurred first (standard deviation, in places
    of `heat`). full_from: where values have a meaning by themselves, the least that may get the full colour, so that
    next to nothing is not drawn as much.
    """
    base = _sized(picture).convert("L")
    black, white = _FADED
    gray = black + np.asarray(base, np.float32)[..., None] / 255 * (white - black)  # (H, W, 1)
    values = smoothed(heat.astype(np.float32), smooth_px)
    values /= max(float(np.abs(values).max()), full_from) or 1.0
    wide = Image.fromarray(values).resize(base.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(wide), -1.0, 1.0)  # (H, W)
    alpha = _OPAQUE * np.abs(strength)[..., None]
    colour = np.where(strength[..., None] > 0, _ramp(_FOR, strength), _ramp(_AGAINST, -strength))
    drawn = Image.fromarray(np.rint(gray * (1 - alpha) + colour * alpha).astype(np.uint8))
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def smoothed(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """`values` (h, w) blurred by a Gaussian of standard deviation `sigma` places; 0 leaves them. Borders keep their weight."""
    if sigma <= 0:
        return values
    rows, columns = (_gaussian(length, sigma) for length in values.shape)
    return np.asarray(rows @ values @ columns.T, np.float32)


def _gaussian(length: int, sigma: float) -> NDArray[np.float32]:
    """(length, length), rows sum to one."""
    places = np.arange(length)
    weights = np.exp(-0.5 * ((places[:, None] - places[None, :]) / sigma) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _sized(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest > LONGEST_PX:
        scale = LONGEST_PX / longest
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture.resize(size, Image.Resampling.BICUBIC)
    factor = max(1, round(SHORTEST_PX / longest))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _ramp(stops: tuple[tuple[int, int, int], ...], strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours (H, W, 3) between `stops` for strengths from 0 to 1."""
    at = np.linspace(0, 1, len(stops))
    channels = [np.interp(strength, at, [stop[channel] for stop in stops]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
