"""A few numbers that say what a picture looks like: cheap for every served picture, and telling enough for drift."""

import numpy as np
from numpy.typing import NDArray

CHANNELS = {1: ("gray",), 3: ("red", "green", "blue")}
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def appearance(pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """pictures: (N, side, side, 1 or 3) as a network sees them. Returns arrays (N,) by name, all of full scale (0 to 1):

    `<channel>_mean` and `<channel>_deviation` over the pixels; `sharpness`, the deviation of the Laplacian of the
    luminance (Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548), 0 for sides below 3.
    """
    channels = CHANNELS[pictures.shape[3]]
    values = pictures.astype(np.float32) / 255
    means, deviations = values.mean((1, 2)), values.std((1, 2))  # (N, C)
    found = {f"{name}_mean": means[:, place] for place, name in enumerate(channels)}
    found |= {f"{name}_deviation": deviations[:, place] for place, name in enumerate(channels)}
    light = values[..., 0] if len(channels) == 1 else values @ LUMINANCE  # (N, side, side)
    if light.shape[1] < 3:
        return found | {"sharpness": np.zeros(len(pictures), np.float32)}
    around = light[:, :-2, 1:-1] + light[:, 2:, 1:-1] + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
    return found | {"sharpness": (4 * light[:, 1:-1, 1:-1] - around).std((1, 2))}


def format_of(width: int, height: int) -> dict[str, float]:
    """Of the picture as it was sent, in pixels: `aspect_ratio`, width to height, and `megapixels`."""
    return {"aspect_ratio": width / height, "megapixels": width * height / 1e6}
