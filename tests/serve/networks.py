"""Small ONNX networks whose answers one can foretell, and pictures to ask them about."""

import io

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}
LABELS = tuple(COLOURS)


def colour_network(side: int = 16, turn: int = 0, sharpness: float = 0.02) -> bytes:
    """Scores red, green and blue by the picture's mean colour; `turn` shifts which label gets which channel."""
    matrix = np.roll(np.eye(3, dtype=np.float32), turn, axis=1) * sharpness
    return _model(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "matrix"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        ],
        {"axes": np.array([1, 2], np.int64), "matrix": matrix},
        side,
        classes=3,
    )


def heavy_network(side: int = 64, width: int = 48, depth: int = 6) -> bytes:
    """Convolutions at full size, to take time: some 10 ms for one picture of 64×64."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    weights: dict[str, NDArray[np.generic]] = {}
    channels = 3
    for layer in range(depth):
        scale = np.sqrt(2 / (9 * channels))
        weights[f"w{layer}"] = random.normal(0, scale, (width, channels, 3, 3)).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"y{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"]),
        ]
        channels = width
    weights["dense"] = random.normal(0, 0.01, (width, 3)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{depth}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    return _model(nodes, weights, side, classes=3)


def pixel_network(side: int, channels: int) -> bytes:
    """Scores every pixel by its value: it tells what it was fed. Labels are places in row-major order."""
    return _model(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["scores"]),
        ],
        {},
        side,
        classes=side * side * channels,
        channels=channels,
    )


def _model(
    nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]], side: int, classes: int, channels: int = 3
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, channels])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (20, 14), mode: str = "RGB") -> bytes:
    """The bytes of a picture file in one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).convert(mode).save(file, kind)
    return file.getvalue()


def noise(seed: int, size: tuple[int, int] = (20, 14), kind: str = "PNG") -> bytes:
    """The bytes of a picture file of random pixels."""
    random = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()
