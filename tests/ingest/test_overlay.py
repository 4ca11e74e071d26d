"""Heat drawn over a picture."""

import io

import numpy as np
import pytest
from PIL import Image

from ingest.overlay import LONGEST_PX, overlay, smoothed

GRAY = Image.new("RGB", (64, 64), (128, 128, 128))


def drawn(picture: Image.Image, heat: np.ndarray, smooth_px: float = 0.0) -> np.ndarray:
    """int (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(overlay(picture, heat, smooth_px)))).astype(int)


def test_what_speaks_for_it_is_warm_what_speaks_against_it_is_blue_and_the_rest_is_gray() -> None:
    heat = np.zeros((8, 8))
    heat[1, 1], heat[6, 6] = 1e-4, -1e-4  # whatever the size
    pixels = drawn(GRAY, heat)
    scale = len(pixels) // 8
    warm, cold, plain = (pixels[place * scale + scale // 2, place * scale + scale // 2] for place in (1, 6, 4))
    assert warm[0] > warm[1] + 50 > warm[2]
    assert cold[2] > cold[0] + 50
    assert plain[0] == plain[1] == plain[2]


def test_next_to_nothing_is_not_drawn_as_much_where_values_have_a_meaning() -> None:
    heat = np.full((8, 8), 0.001)
    png = overlay(GRAY, heat, full_from=0.05)
    pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
    assert np.ptp(pixels, axis=2).max() < 10 < np.ptp(drawn(GRAY, heat), axis=2).min()


def test_no_heat_leaves_the_picture_alone() -> None:
    pixels = drawn(GRAY, np.zeros((3, 3)))
    assert len(np.unique(pixels)) == 1


@pytest.mark.parametrize(
    ("size", "shown"),
    [((28, 28), (252, 252)), ((1, 1), (256, 256)), ((300, 200), (300, 200)), ((4000, 1000), (512, 128)), ((5000, 1), (512, 1))],
)  # fmt: skip
def test_pictures_are_drawn_in_a_size_to_look_at(size: tuple[int, int], shown: tuple[int, int]) -> None:
    height, width, _ = drawn(Image.new("L", size), np.ones((4, 4))).shape
    assert (width, height) == shown
    assert max(shown) <= LONGEST_PX


def test_blurring_spreads_a_value_and_keeps_a_constant() -> None:
    spot = np.zeros((9, 9), np.float32)
    spot[4, 4] = 1
    assert 0 < smoothed(spot, 1.5)[4, 6] < smoothed(spot, 1.5)[4, 4] < 1
    assert np.allclose(smoothed(np.ones((9, 5), np.float32), 2.0), 1)
    assert smoothed(spot, 0.0) is spot
