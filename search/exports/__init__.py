"""A trained model in formats that others read, and the proof that it still answers as it did.

One module per format: a function from what is stored of a model to one file, with a program that answers with that file
alone. `export` runs the program in a fresh process that cannot import this package, and compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import catalog
from search.data import Images
from search.exports import docker, mlflow, onnx_files, torch_files
from search.exports.fresh import answers
from search.exports.values import MAX_DIFFERENCE, Data, DifferenceError, Format, Subject, scores_of

COMPARED = 64  # pictures

FORMATS: Mapping[str, Format] = {
    "onnx": onnx_files.plain,
    "onnx-int8": onnx_files.int8,
    "pt2": torch_files.pt2,
    "safetensors": torch_files.safetensors,
    "python": torch_files.python,
    "docker": docker.docker,
    "mlflow": mlflow.mlflow,
}


@dataclass(frozen=True, slots=True)
class Exported:
    """content, name, media_type: the file. report: how it was compared, and what the format has to say."""

    content: bytes
    name: str
    media_type: str
    report: Mapping[str, Any]


def compared_rows(images: Images) -> NDArray[np.int64]:
    """Validation pictures, then training pictures: up to 64."""
    return np.concatenate([images.validation, images.train])[:COMPARED]


def compared_pictures(subject: Subject, data: Data | None) -> tuple[NDArray[np.uint8], str]:
    """What exports are compared on, uint8 (64, side, side, C), and where they come from."""
    if data is None:
        shape = (COMPARED, subject.side, subject.side, subject.channels)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8), "random, as its data set was deleted"
    rows = np.concatenate([data.images.validation, data.images.train])[:COMPARED]
    return np.ascontiguousarray(
        data.images.pixels[np.resize(rows, COMPARED)]
    ), "its data set: validation, then training"


def export(subject: Subject, data: Data | None, format: str, options: Mapping[str, Any]) -> Exported:
    """The model as one file. options: resolved by `catalog.EXPORTS`.

    Raises RefusedError, DifferenceError, and FreshError (of `search.exports.fresh`) when it cannot be loaded.
    """
    resolved = catalog.entry(catalog.EXPORTS, format, "format").resolve(options)
    made = FORMATS[format](subject, data, resolved)
    pictures, origin = compared_pictures(subject, data)
    model = scores_of(subject.onnx, pictures)
    expected = model if made.expected is None else made.expected(pictures)
    scores, *others = answers(made, [pictures, *(picture[None] for picture in made.others)])
    difference = float(np.abs(scores - expected).max()) if scores.shape == expected.shape else float("nan")
    if not difference <= MAX_DIFFERENCE:
        raise DifferenceError(
            f"the scores of the {format} export differ from the model's by up to {difference:.2g}; at most "
            f"{MAX_DIFFERENCE:g} is accepted"
        )
    report: dict[str, Any] = {
        "pictures": len(pictures),
        "pictures_from": origin,
        "max_difference": difference,
        "max_difference_accepted": MAX_DIFFERENCE,
        "max_difference_from_model": float(np.abs(scores - model).max()),
        **made.report,
    }
    if made.judge is not None:
        report |= made.judge(others)
    return Exported(made.content, made.name, made.media_type, report)
