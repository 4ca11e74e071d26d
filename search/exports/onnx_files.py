"""ONNX: as it is served, with the preprocessing inside, and in eight bits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import PIL
from numpy.typing import NDArray

from ingest.preprocess import Preprocessing, squashed
from search.exports.values import (
    MAX_DIFFERENCE,
    Data,
    DifferenceError,
    Made,
    RefusedError,
    Scores,
    Subject,
    scores_of,
)
from search.quantize import CALIBRATION_PICTURES, NotQuantizableError, quantize
from search.resizing import resizing, with_resizing
from search.runtime import INPUT, session_options, threads

Pixels = NDArray[np.uint8]

MEDIA_TYPE = "application/octet-stream"
PROGRAM = """
import onnxruntime

session = onnxruntime.InferenceSession({name!r}, providers=["CPUExecutionProvider"])


def answers(images):
    return session.run(["scores"], {{"images": images}})[0]
"""


def plain(subject: Subject, data: Data | None, options: Mapping[str, Any]) -> Made:
    """The file that is served, byte for byte; or one that takes pictures of any height and width."""
    if not options["preprocessing"]:
        name = f"{subject.stem}.onnx"
        return Made(subject.onnx, name, MEDIA_TYPE, PROGRAM.format(name=name))
    name = f"{subject.stem}-any-size.onnx"
    content = with_resizing(subject.onnx, subject.side, subject.channels)
    originals = data.originals if data is not None and data.originals else _of_many_sizes(subject)
    packed = data.packed if data is not None else ()

    def judge(scores: Sequence[Scores]) -> Mapping[str, Any]:
        return {"preprocessing": _compared(subject, originals, packed, scores)}

    return Made(content, name, MEDIA_TYPE, PROGRAM.format(name=name), others=originals, judge=judge)


def _of_many_sizes(subject: Subject) -> list[Pixels]:
    """Random pictures, smaller and larger than the packed ones, wide and high."""
    side, random = subject.side, np.random.default_rng(0)
    sizes = [(side, side), (1, 1), (side // 2 + 1, 2 * side), (5 * side + 3, side + 1), (3 * side, 9 * side + 2)]
    return [random.integers(0, 256, (*size, subject.channels), np.uint8) for size in sizes]


def _compared(
    subject: Subject, originals: Sequence[Pixels], packed: Sequence[Pixels], scores: Sequence[Scores]
) -> Mapping[str, Any]:
    """What the resize inside does beside that of the training, for decoded pictures and for the files they came from.

    Raises DifferenceError when it is another one.
    """
    options = session_options(threads())
    session = onnxruntime.InferenceSession(
        resizing(subject.side, subject.channels), options, providers=["CPUExecutionProvider"]
    )
    inside = np.concatenate([session.run(None, {INPUT: picture[None]})[0] for picture in originals])
    trained = np.stack([squashed(picture, Preprocessing(subject.side, subject.channels)) for picture in originals])
    answered = np.concatenate(scores)
    levels, difference = _levels(inside, trained), float(np.abs(answered - scores_of(subject.onnx, trained)).max())
    if levels > 0 or not difference <= MAX_DIFFERENCE:
        raise DifferenceError(
            f"resized inside the graph a pixel differs by up to {levels} levels from what Pillow {PIL.__version__} makes of "
            f"it, and a score by up to {difference:.2g}; 0 and {MAX_DIFFERENCE:g} are accepted. The graph has the resize of "
            "Pillow 13"
        )
    report: dict[str, Any] = {
        "pictures": len(originals),
        "pictures_from": "the data set's files" if packed else "random",
        "smallest": list(min(originals, key=lambda picture: picture.size).shape[:2]),
        "largest": list(max(originals, key=lambda picture: picture.size).shape[:2]),
        "max_pixel_difference": levels,
        "max_score_difference": difference,
    }
    if packed:  # an import decodes a large JPEG at a fraction of its size, which other readers do not
        seen = np.stack(packed)
        report["max_pixel_difference_from_import"] = _levels(inside, seen)
        report["max_score_difference_from_import"] = float(np.abs(answered - scores_of(subject.onnx, seen)).max())
    return report


def _levels(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


def int8(subject: Subject, data: Data | None, options: Mapping[str, Any]) -> Made:
    """The network in eight bits, if that costs no more accuracy on the validation pictures than is allowed."""
    if data is None:
        raise RefusedError(
            f"model {subject.name}@{subject.version} cannot be had as onnx-int8: the data set that it was trained on was "
            "deleted, so there are no pictures to calibrate and to validate it on. The other formats need none"
        )
    images = data.images
    rows = images.train[:: max(1, len(images.train) // CALIBRATION_PICTURES)][:CALIBRATION_PICTURES]
    try:
        content = quantize(subject.onnx, np.ascontiguousarray(images.pixels[rows]))
    except NotQuantizableError as error:
        raise RefusedError(f"model {subject.name}@{subject.version} cannot be had as onnx-int8: {error}") from error
    validated = images.validation if len(images.validation) else images.train
    targets = images.targets[validated]
    accuracy, accuracy_int8 = (
        float((scores_of(model, images.pixels[validated]).argmax(1) == targets).mean())
        for model in (subject.onnx, content)
    )
    drop, allowed = accuracy - accuracy_int8, float(options["max_accuracy_drop"])
    if drop > allowed:
        raise RefusedError(
            f"in eight bits model {subject.name}@{subject.version} loses {drop:.4f} of its accuracy ({accuracy:.4f} to "
            f"{accuracy_int8:.4f} on {len(validated)} validation pictures); max_accuracy_drop allows {allowed:g}. Ask "
            "with a larger one, or deploy it in fp32"
        )
    name = f"{subject.stem}-int8.onnx"
    report = {
        "calibration_pictures": len(rows),
        "validation_pictures": len(validated),
        "accuracy": accuracy,
        "accuracy_int8": accuracy_int8,
        "accuracy_drop": drop,
        "max_accuracy_drop": allowed,
    }
    return Made(
        content,
        name,
        MEDIA_TYPE,
        PROGRAM.format(name=name),
        report,
        expected=lambda pictures: scores_of(content, pictures),
    )
