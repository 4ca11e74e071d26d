"""Data set versions made without an import, for tests of what comes after it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from store import datasets
from store.objects import Objects
from store.tables import Dataset, DatasetVersion
from tests.support.pictures import some_digits


def placed(count: int, per_class: int) -> NDArray[np.uint8]:
    """The split of each of `count` digits, ordered by class: 80 % train, 10 % validation, 10 % test of each."""
    place = np.arange(count) % per_class / per_class
    return np.where(place < 0.8, 0, np.where(place < 0.9, 1, 2)).astype(np.uint8)


def digits_version(session: Session, objects: Objects, scratch: Path, per_class: int, name: str = "digits") -> Dataset:
    """A ready data set of real digits: 80 % train, 10 % validation, 10 % test of each class."""
    pixels, labels = some_digits(per_class)
    splits = placed(len(labels), per_class)
    dataset = datasets.create(session, name, "image_classification")
    scratch.mkdir(parents=True, exist_ok=True)
    np.save(scratch / "images.npy", pixels[..., None])
    np.savez(scratch / "index.npz", labels=labels.astype(np.int32), splits=splits)
    prefix = f"datasets/{dataset.id}/made"
    size = sum(objects.take_file(f"{prefix}/{file}", scratch / file) for file in ("images.npy", "index.npz"))
    histogram = {
        split: {str(label): int(((labels == label) & (splits == number)).sum()) for label in range(10)}
        for number, split in enumerate(("train", "validation", "test"))
    }
    version: DatasetVersion = datasets.add_version(
        session,
        dataset.id,
        datasets.NewVersion(
            content_hash="made",
            labels=[str(label) for label in range(10)],
            preprocessing={"version": 1, "side": 28, "channels": 1},
            images_key=f"{prefix}/images.npy",
            index_key=f"{prefix}/index.npz",
            shard_keys=[],
            size_bytes=size,
            stats={"splits": histogram, "counts": {}},
            example_count=len(labels),
            examples=[],
            findings=[],
        ),
    )
    assert version.number == 1
    return dataset
