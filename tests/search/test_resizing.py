"""The resize inside an ONNX file is the one of the import, bit for bit."""

import numpy as np
import onnxruntime
import pytest

from ingest.preprocess import Preprocessing, squashed
from search.resizing import resizing
from search.runtime import session_options

SIZES = [
    (1, 1), (28, 28), (27, 29), (3, 900), (900, 3), (56, 56), (112, 112), (111, 113), (100, 37), (37, 100), (127, 129),
    (640, 480), (1301, 700), (33, 333), (1080, 1920),
]  # fmt: skip


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3), (7, 3)])
def test_the_resize_is_that_of_the_import_bit_for_bit(side: int, channels: int) -> None:
    session = onnxruntime.InferenceSession(
        resizing(side, channels), session_options(1), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(side)
    chosen = [(int(height), int(width)) for height, width in np.exp(random.uniform(0, 6.5, (60, 2)))]
    for height, width in SIZES + chosen:
        noise = random.integers(0, 256, (height, width, channels), np.uint8)
        for picture in (noise, np.where(noise > 127, 255, 0).astype(np.uint8)):  # the latter overshoots everywhere
            (packed,) = session.run(None, {"images": picture[None]})
            assert np.array_equal(packed[0], squashed(picture, Preprocessing(side, channels))), (height, width)


def test_pictures_of_one_size_are_resized_together() -> None:
    session = onnxruntime.InferenceSession(resizing(16, 3), session_options(1), providers=["CPUExecutionProvider"])
    pictures = np.random.default_rng(0).integers(0, 256, (3, 70, 41, 3), np.uint8)
    (packed,) = session.run(None, {"images": pictures})
    assert packed.shape == (3, 16, 16, 3)
    for picture, small in zip(pictures, packed, strict=True):
        assert np.array_equal(small, squashed(picture, Preprocessing(16, 3)))
