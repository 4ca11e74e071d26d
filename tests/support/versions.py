"""Data set versions made without an import, for tests of what comes after it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy.orm import Session

from store import datasets
from store.objects import Objects
from store.tables import Dataset, DatasetVersion
from tests.support.pictures import png, some_digits

DIGITS = tuple("0123456789")


def placed(count: int, per_class: int) -> NDArray[np.uint8]:
    """The split of each of `count` digits, ordered by class: 80 % train, 10 % validation, 10 % test of each."""
    place = np.arange(count) % per_class / per_class
    return np.where(place < 0.8, 0, np.where(place < 0.9, 1, 2)).astype(np.uint8)


def digits_version(
    session: Session,
    objects: Objects,
    scratch: Path,
    per_class: int,
    name: str = "digits",
    *,
    names: Sequence[str] = DIGITS,
    side: int = 28,
) -> Dataset:
    """A ready data set of real digits: 80 % train, 10 % validation, 10 % test of each class.

    names: of the labels, in the order of the digits. side: that the pictures, of 28×28, are packed to.
    """
    pixels, labels = some_digits(per_class)
    splits = placed(len(labels), per_class)
    dataset = datasets.create(session, name, "image_classification")
    scratch.mkdir(parents=True, exist_ok=True)
    packed = [np.asarray(Image.fromarray(picture).resize((side, side))) for picture in pixels]
    np.save(scratch / "images.npy", np.stack(packed)[..., None])
    np.savez(scratch / "index.npz", labels=labels.astype(np.int32), splits=splits)
    prefix = f"datasets/{dataset.id}/made"
    originals = [png(picture) for picture in pixels]
    (scratch / "originals-00000.bin").write_bytes(b"".join(originals))
    starts = np.cumsum([0, *(len(original) for original in originals)]).tolist()
    examples = [
        (number, f"{label}/{number}.png", int(label), int(split), hashlib.sha256(data).digest(), number,
         28, 28, len(data), "PNG", 0, starts[number], len(data))
        for number, (data, label, split) in enumerate(zip(originals, labels, splits, strict=True))
    ]  # fmt: skip
    files = ("images.npy", "index.npz", "originals-00000.bin")
    size = sum(objects.take_file(f"{prefix}/{file}", scratch / file) for file in files)
    histogram = {
        split: {names[label]: int(((labels == label) & (splits == number)).sum()) for label in range(10)}
        for number, split in enumerate(("train", "validation", "test"))
    }
    version: DatasetVersion = datasets.add_version(
        session,
        dataset.id,
        datasets.NewVersion(
            content_hash="made",
            labels=list(names),
            preprocessing={"version": 1, "side": side, "channels": 1},
            images_key=f"{prefix}/images.npy",
            index_key=f"{prefix}/index.npz",
            shard_keys=[f"{prefix}/originals-00000.bin"],
            size_bytes=size,
            stats={"splits": histogram, "counts": {}},
            example_count=len(labels),
            examples=examples,
            findings=[],
        ),
    )
    assert version.number == 1
    return dataset
