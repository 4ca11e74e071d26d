"""What an export begins with and what it ends as."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from search.data import Images
from search.runtime import INPUT, OUTPUT, session_options, threads

Scores = NDArray[np.float32]
MAX_DIFFERENCE = 1e-3  # of a score between 0 and 1; float32 arithmetic in another order stays far below


class RefusedError(ValueError):
    """The model cannot be had in this format with these options; the message says why and what would help."""


class DifferenceError(RuntimeError):
    """An export answers otherwise than the model: a fault of the conversion."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is stored of a model. onnx: of `search.export.to_onnx`. source: of `search.source.source_of`, which answers
    like it, given the weights (safetensors)."""

    name: str
    version: int
    description: str
    genotype: Mapping[str, Any]
    labels: Sequence[str]
    side: int
    channels: int
    weights: bytes
    onnx: bytes
    source: str

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}"


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What the model was trained on, if it is still there. originals: some of its pictures as they were uploaded,
    decoded and upright, uint8 (H, W, C); `packed` what each of them became, uint8 (side, side, C)."""

    images: Images
    originals: Sequence[NDArray[np.uint8]] = ()
    packed: Sequence[NDArray[np.uint8]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A file and how to ask it. program: Python that defines `answers(images)`, uint8 (N, H, W, C) to scores (N, classes),
    reading `name` in the working directory. expected: what it has to answer for packed pictures; None: what the model
    does. others: pictures of other sizes to ask about, with which `judge` completes the report."""

    content: bytes
    name: str
    media_type: str
    program: str
    report: Mapping[str, Any] = field(default_factory=dict)
    expected: Callable[[NDArray[np.uint8]], Scores] | None = None
    others: Sequence[NDArray[np.uint8]] = ()
    judge: Callable[[Sequence[Scores]], Mapping[str, Any]] | None = None


Format = Callable[[Subject, Data | None, Mapping[str, Any]], Made]


def scores_of(model: bytes, pictures: NDArray[np.uint8], batch: int = 256) -> Scores:
    """What an ONNX file with our input and output answers: uint8 (N, …) to float32 (N, classes)."""
    session = onnxruntime.InferenceSession(model, session_options(threads()), providers=["CPUExecutionProvider"])
    parts = [
        session.run([OUTPUT], {INPUT: np.ascontiguousarray(pictures[start : start + batch])})[0]
        for start in range(0, len(pictures), batch)
    ]
    return np.concatenate(parts)
