import io
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from ingest.duplicates import MAX_GROUP, group, near_pairs, perceptual_hashes
from tests.ingest.samples import encoded, noise
from tests.support.pictures import digits

Picture = NDArray[np.uint8]


def pairs_of(pictures: Picture) -> NDArray[np.int64]:
    return near_pairs(perceptual_hashes(pictures), lambda rows: pictures[rows])


def photos(count: int, side: int = 64) -> Picture:
    return np.stack([np.asarray(noise(seed, side, side)) for seed in range(count)])


def saved_again(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=60)))


def scaled(image: Image.Image) -> Image.Image:
    return image.resize((45, 45)).resize(image.size, Image.Resampling.BICUBIC)


def dimmed(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.8)


@pytest.mark.parametrize("change", [saved_again, scaled, dimmed])
def test_copies_that_were_saved_again_scaled_or_dimmed_are_found(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    originals = photos(60)
    copies = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in originals])
    found = pairs_of(np.concatenate([originals, copies]))
    right = {(at, at + 60) for at in range(60)}
    assert len(right & set(map(tuple, found.tolist()))) >= 57
    assert set(map(tuple, found.tolist())) <= right


def test_of_thousands_of_handwritten_digits_few_pass_for_copies_and_none_across_labels() -> None:
    pixels, labels = digits()
    pairs = pairs_of(pixels[..., None])
    assert len(np.unique(pairs)) <= 0.01 * len(pixels)
    groups = group(pairs, labels.astype(np.int32))
    assert np.bincount(groups).max() <= MAX_GROUP
    assert (labels[pairs[:, 0]] == labels[pairs[:, 1]]).all()


def test_the_same_drawing_in_other_colours_is_another_picture() -> None:
    red = np.zeros((1, 32, 32, 3), np.uint8)
    red[:, 8:24, 8:24, 0] = 255
    assert len(pairs_of(np.concatenate([red, red[..., ::-1]]))) == 0
    assert len(pairs_of(np.concatenate([red, red]))) == 1


def test_blank_pictures_are_no_copies_of_each_other() -> None:
    assert len(pairs_of(np.full((50, 32, 32, 1), 255, np.uint8))) == 0


def test_one_picture_or_none_has_no_copies() -> None:
    for count in (0, 1):
        assert pairs_of(photos(2)[:count] if count else np.empty((0, 64, 64, 3), np.uint8)).shape == (0, 2)


def test_a_chain_of_copies_does_not_swallow_a_class() -> None:
    chain = np.stack([np.arange(199), np.arange(1, 200)], axis=1)
    labels = np.zeros(200, np.int32)
    sizes = np.bincount(group(chain, labels))
    assert sizes.max() == 10  # a twentieth of the class
    assert group(chain[:5], labels)[:7].tolist() == [0, 0, 0, 0, 0, 0, 6]


def test_a_group_across_labels_is_bounded_by_the_smaller_class() -> None:
    labels = np.array([0] * 400 + [1] * 20, np.int32)
    pairs = np.array([[at, 400 + at % 20] for at in range(60)])
    groups = group(pairs, labels)
    sizes = np.bincount(groups, minlength=420)
    assert max(sizes[groups[400:]]) <= MAX_GROUP


def test_the_hash_is_pinned() -> None:
    """Stored hashes of older versions must stay comparable."""
    pinned = np.array([0x6752780D83F070F6, 0x12F8762DC71C38D2], np.uint64)
    assert np.bitwise_count(perceptual_hashes(photos(2)) ^ pinned).max() <= 2  # sums round differently elsewhere


def test_time_grows_with_the_number_of_pictures_and_not_with_its_square() -> None:
    hashes = np.random.RandomState(0).randint(0, 2**63, 200_000).astype(np.uint64)
    start = time.perf_counter()
    assert len(near_pairs(hashes, lambda rows: np.zeros((len(rows), 28, 28, 1), np.uint8))) == 0
    assert time.perf_counter() - start < 60  # all pairs would be 20,000,000,000 comparisons
