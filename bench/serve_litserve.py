"""The network of `bench.serve` behind LitServe, which hands its API object to a process of its own."""

import base64
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Request
from numpy.typing import NDArray

from bench.serve import answer, prepared


class Classify(litserve.LitAPI):
    """Takes `{"image": base64}`."""

    def __init__(self, onnx: Path, side: int, **options: Any) -> None:
        super().__init__(**options)
        self.onnx, self.side = onnx, side

    def setup(self, _device: str) -> None:
        self.session = onnxruntime.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        """`Request` is LitServe's word for a body of JSON; what comes is what that holds."""
        picture: NDArray[np.uint8] = prepared(base64.b64decode(request["image"]), self.side)
        return picture

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(inputs)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self.session.run(["scores"], {"images": images})[0]
        return scores

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
        return answer(output)
