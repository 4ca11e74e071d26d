"""Packed pictures: opening, resizing, moving, ordering."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search.data import Images, Moves, Order, Pool, Split, UnusableDataError, moved, resize, resize_matrix


def noise(count: int, side: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def images(count: int = 20, side: int = 16) -> Images:
    splits = np.arange(count) % 10 // 8 + np.arange(count) % 10 // 9
    return Images.of(noise(count, side), np.arange(count) % 3, splits, ["a", "b", "c"])


def test_what_the_import_writes_is_opened_without_reading_the_pixels(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", noise(20, 16))
    np.savez(tmp_path / "index.npz", labels=np.arange(20, dtype=np.int32) % 3, splits=np.arange(20, dtype=np.uint8) % 3)
    opened = Images.open(tmp_path, ["a", "b", "c"])
    assert isinstance(opened.pixels, np.memmap)
    assert opened.shape() == opened.shape(16)
    assert (opened.shape(8).channels, opened.shape(8).side, opened.shape(8).classes) == (3, 8, 3)
    assert len(opened.train) + len(opened.validation) + len(opened.test) == 20


@pytest.mark.parametrize(
    ("pixels", "labels", "splits", "message"),
    [
        (noise(4, 8).astype(np.float32), [0, 1, 0, 1], [0, 0, 1, 2], "must be uint8"),
        (noise(4, 8, 2), [0, 1, 0, 1], [0, 0, 1, 2], "1 or 3 channels, these have 2"),
        (noise(4, 8), [0, 1, 0], [0, 0, 1, 2], "3 labels"),
        (noise(4, 8), [0, 1, 0, 2], [0, 0, 1, 2], "labels run from 0 to 2, but 2 are named"),
        (noise(4, 8), [0, 1, 0, 1], [0, 0, 2, 2], "no picture is in the validation split"),
        (noise(4, 8), [0, 1, 0, 1], [1, 1, 2, 2], "no picture is in the train split"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_the_reason(
    pixels: np.ndarray, labels: list[int], splits: list[int], message: str
) -> None:
    with pytest.raises(UnusableDataError, match=message):
        Images.of(pixels, np.array(labels), np.array(splits), ["a", "b"])


def test_the_statistics_are_those_of_the_training_pictures() -> None:
    data = images()
    mean, deviation = data.statistics()
    values = data.pixels[data.train].reshape(-1, 3)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(deviation, values.std(0), rtol=1e-4)


def test_a_channel_without_variation_does_not_divide_by_zero() -> None:
    data = Images.of(np.full((4, 8, 8, 1), 7, np.uint8), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 2]), ["a", "b"])
    assert data.statistics()[1].item() == 1.0


@pytest.mark.parametrize(("source", "target"), [(32, 24), (128, 64), (20, 32), (96, 96)])
def test_resizing_agrees_with_pillows_antialiased_bilinear(source: int, target: int) -> None:
    picture = noise(1, source)[0]
    expected = np.asarray(Image.fromarray(picture).resize((target, target), Image.Resampling.BILINEAR))
    planes = torch.from_numpy(picture[None]).permute(0, 3, 1, 2).float()
    ours = resize(planes, resize_matrix(source, target))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() <= 1.0


def test_pictures_are_moved_and_mirrored_as_told() -> None:
    picture = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4, 1)
    still = Moves(torch.tensor([False]), torch.tensor([[0, 0]]))
    mirrored = Moves(torch.tensor([True]), torch.tensor([[0, 0]]))
    down = Moves(torch.tensor([False]), torch.tensor([[1, 0]]))
    first = torch.tensor([0])
    assert torch.equal(moved(picture, first, still), picture)
    assert torch.equal(moved(picture, first, mirrored), picture.flip(2))
    assert moved(picture, first, down)[0, :, 0, 0].tolist() == [4, 0, 4, 8]  # the gap shows the reflection


def test_a_mirrored_picture_can_be_shifted_too() -> None:
    picture = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4, 1)
    both = Moves(torch.tensor([True]), torch.tensor([[0, 1]]))
    assert moved(picture, torch.tensor([0]), both)[0, 0, :, 0].tolist() in ([2, 1, 0, 1], [2, 3, 2, 1])


def test_a_pool_gives_the_same_pictures_whether_it_keeps_them_or_not() -> None:
    data = images()
    cpu = torch.device("cpu")
    kept, fresh = (Pool(data, data.train, 12, cpu, budget) for budget in (10**9, 0))
    positions = torch.tensor([3, 0, 3])
    assert torch.equal(kept.take(positions), fresh.take(positions))
    moves = Moves(torch.tensor([True, False, True]), torch.tensor([[1, 0], [0, -1], [2, 2]]))
    assert torch.equal(kept.augmented(positions, moves), fresh.augmented(positions, moves))


def test_every_epoch_shows_every_picture_once_in_an_order_of_its_own() -> None:
    order = Order(np.zeros(10, np.int64), seed=1)
    positions, epochs = order.take(5, 25)  # the second half of epoch 0, then epochs 1 and 2
    assert epochs.tolist() == [0] * 5 + [1] * 10 + [2] * 10
    assert sorted(positions[5:15].tolist()) == sorted(positions[15:].tolist()) == list(range(10))
    assert positions[5:15].tolist() != positions[15:].tolist()
    again, _ = Order(np.zeros(10, np.int64), seed=1).take(12, 6)
    assert again.tolist() == positions[7:13].tolist()


def test_balance_shows_every_class_equally_often() -> None:
    targets = np.repeat([0, 1, 2], [90, 9, 1])
    positions, _ = Order(targets, seed=0, balance=1.0).take(0, 1000)
    counts = np.bincount(targets[positions.numpy()])
    assert counts.tolist() == pytest.approx([333, 333, 333], abs=12)


def test_splits_have_the_numbers_of_the_index() -> None:
    assert [Split.TRAIN, Split.VALIDATION, Split.TEST] == [0, 1, 2]
