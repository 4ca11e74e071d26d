"""ONNX: as it is served, with the preprocessing inside, and in eight bits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from search.exports.values import Data, Made, RefusedError, Subject, scores_of
from search.quantize import CALIBRATION_PICTURES, NotQuantizableError, quantize

MEDIA_TYPE = "application/octet-stream"
PROGRAM = """
import onnxruntime

session = onnxruntime.InferenceSession({name!r}, providers=["CPUExecutionProvider"])


def answers(images):
    return session.run(["scores"], {{"images": images}})[0]
"""


def plain(subject: Subject, _: Data | None, __: Mapping[str, Any]) -> Made:
    """The file that is served, byte for byte."""
    name = f"{subject.stem}.onnx"
    return Made(subject.onnx, name, MEDIA_TYPE, PROGRAM.format(name=name))


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
