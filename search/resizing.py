"""The resize of `ingest/preprocess.py` as ONNX, so that a file takes pictures of any height and width.

It is Pillow's arithmetic, integer for integer: a box average by a whole factor (`Image.reduce`), then a bicubic resize
(a = -0.5, widened when shrinking) across and down, each rounded to eight bits (libImaging/Reduce.c and Resample.c of
Pillow 13, which begins with the height where that shrinks much more; before 13 it always began with the width).
Bit for bit what training saw, therefore, of the same decoded pixels. What a decoder does before is not in the graph: a
large JPEG is decoded at a half, a quarter or an eighth of its size at import, and to the pixel by most other readers.

Loads no torch.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ingest.preprocess import REDUCE_GAP
from search.runtime import INPUT

_PACKED = "packed"
_REDUCE_BITS = 24  # of the fixed-point reciprocal that Reduce.c multiplies by
_RESAMPLE_BITS = 22  # of the fixed-point weights of Resample.c


def with_resizing(model: bytes, side: int, channels: int) -> bytes:
    """`model`, an ONNX file of `search.export`, with input `images` uint8 (N, H, W, channels): H and W are free, and the
    same for all pictures of one call. Metadata stays."""
    network = onnx.load_from_string(model)
    graph = network.graph
    before = _Graph(side, channels)
    for node in graph.node:
        node.input[:] = [_PACKED if name == INPUT else name for name in node.input]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(before.nodes + nodes)
    graph.initializer.extend(before.constants.values())
    shape: list[str | int | None] = ["N", "H", "W", channels]
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape))
    onnx.checker.check_model(network)
    return bytes(network.SerializeToString(deterministic=True))


def resizing(side: int, channels: int) -> bytes:
    """The resize alone: `images` uint8 (N, H, W, channels) to `packed` uint8 (N, side, side, channels)."""
    graph = _Graph(side, channels)
    images = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", "H", "W", channels])
    packed = helper.make_tensor_value_info(_PACKED, TensorProto.UINT8, ["N", side, side, channels])
    whole = helper.make_graph(graph.nodes, "resizing", [images], [packed], list(graph.constants.values()))
    return bytes(
        helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


class _Graph:
    """Nodes and constants from `images` to `packed`; every name begins with `resize_`."""

    def __init__(self, side: int, channels: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._side = side
        self._branch = ""  # distinguishes names within the branches of an If
        shape = self.add("Shape", INPUT)
        height, width = (self.add("Gather", shape, self.integer(axis)) for axis in (1, 2))
        down, across = (
            self.add("Max", self.integer(1), self.over(size, REDUCE_GAP * side)) for size in (height, width)
        )
        rows, columns = (self.blocks(size, by) for size, by in ((height, down), (width, across)))
        reduced = self.reduced((height, width), (down, across), (rows, columns), channels)  # (N, rows, columns, C)
        x = self.add("Cast", self.add("Transpose", reduced, perm=[0, 3, 1, 2]), to=TensorProto.DOUBLE)
        x = self.resampled(x, rows, columns, self.weights(height, down, rows), self.weights(width, across, columns))
        x = self.add("Cast", self.add("Transpose", x, perm=[0, 2, 3, 1]), to=TensorProto.UINT8)
        self.nodes.append(helper.make_node("Identity", [x], [_PACKED]))

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        name = f"resize_{self._branch}{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"resize_{value.dtype}_{'_'.join(str(item) for item in value.reshape(-1).tolist())}_{value.ndim}"
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def integer(self, *values: int) -> str:
        """A scalar, or with several values a vector."""
        return self.constant(np.asarray(values if len(values) > 1 else values[0], np.int64))

    def real(self, value: float) -> str:
        return self.constant(np.asarray(value, np.float64))

    def over(self, size: str, divisor: int) -> str:
        return self.add("Div", size, self.integer(divisor))

    def blocks(self, size: str, by: str) -> str:
        """How many blocks of `by` cover `size`."""
        return self.add("Div", self.add("Sub", self.add("Add", size, by), self.integer(1)), by)

    def vector(self, *parts: str) -> str:
        one = self.constant(np.asarray([0], np.int64))
        return self.add("Concat", *(self.add("Unsqueeze", part, one) for part in parts), axis=0)

    def reduced(self, sizes: tuple[str, str], by: tuple[str, str], blocks: tuple[str, str], channels: int) -> str:
        """The mean of every block, the last of a line over what there is of it: int64 (N, rows, columns, channels)."""
        missing = [
            self.add("Sub", self.add("Mul", count, step), size)
            for size, step, count in zip(sizes, by, blocks, strict=True)
        ]
        zero, one = self.integer(0), self.integer(channels)
        padded = self.add("Pad", INPUT, self.vector(zero, zero, zero, zero, zero, *missing, zero))
        cut = self.add("Reshape", padded, self.vector(zero, blocks[0], by[0], blocks[1], by[1], one))
        total = self.add("ReduceSum", self.add("Cast", cut, to=TensorProto.INT32), self.integer(2, 4), keepdims=0)
        counts = [
            self.add("Min", step, self.add("Sub", size, self.add("Mul", self.counting(count), step)))
            for size, step, count in zip(sizes, by, blocks, strict=True)
        ]
        rows, columns = (
            self.add("Unsqueeze", count, self.integer(*axes))
            for count, axes in zip(counts, ((1, 2), (0, 2)), strict=True)
        )
        count = self.add("Mul", rows, columns)  # (rows, columns, 1)
        rounded = self.add(
            "Add", self.add("Cast", total, to=TensorProto.INT64), self.add("Div", count, self.integer(2))
        )
        whole = self.constant(np.asarray(1 << _REDUCE_BITS, np.float32))
        reciprocal = self.add("Div", whole, self.add("Cast", count, to=TensorProto.FLOAT))  # in float32, as Reduce.c
        product = self.add("Mul", rounded, self.add("Cast", reciprocal, to=TensorProto.INT64))
        return self.add("Div", product, self.integer(1 << _REDUCE_BITS))

    def counting(self, count: str) -> str:
        return self.add("Range", self.integer(0), count, self.integer(1))

    def double(self, value: str) -> str:
        return self.add("Cast", value, to=TensorProto.DOUBLE)

    def resampled(self, x: str, rows: str, columns: str, down: str, across: str) -> str:
        """double (N, C, rows, columns) to (N, C, side, side): the width first, or the height where more than twice as many
        rows go as columns."""
        across = self.add("Transpose", across, perm=[1, 0])
        less_high = self.add("Sub", rows, self.integer(self._side))
        less_wide = self.add("Max", self.integer(0), self.add("Sub", columns, self.integer(self._side)))
        tall = self.add("Greater", less_high, self.add("Mul", less_wide, self.integer(2)))
        outer, branches = self.nodes, []
        for height_first in (True, False):
            self.nodes = []
            self._branch = f"{height_first}_"
            y = x
            for passes in (height_first, not height_first):
                y = self.eight_bits(self.add("MatMul", down, y) if passes else self.add("MatMul", y, across))
            result = helper.make_tensor_value_info(y, TensorProto.DOUBLE, None)
            branches.append(helper.make_graph(self.nodes, f"height_first_{height_first}", [], [result]))
        self.nodes, self._branch = outer, ""
        return self.add("If", tall, then_branch=branches[0], else_branch=branches[1])

    def weights(self, size: str, by: str, blocks: str) -> str:
        """Bicubic weights from `blocks` positions to the side, whole multiples of 2^-22: double (side, blocks)."""
        side = self._side
        covered = self.add("Div", self.double(size), self.double(by))
        covered = self.double(self.add("Cast", covered, to=TensorProto.FLOAT))  # Pillow's box is in float32
        scale = self.add("Div", covered, self.real(side))
        reach = self.add("Max", scale, self.real(1))
        middles = self.constant((np.arange(side, dtype=np.float64) + 0.5)[:, None])
        places = self.add("Add", self.double(self.counting(blocks)), self.real(0.5))
        distance = self.add("Abs", self.add("Div", self.add("Sub", places, self.add("Mul", middles, scale)), reach))
        square = self.add("Mul", distance, distance)
        near = self.add("Sub", self.add("Mul", distance, self.real(1.5)), self.real(2.5))
        near = self.add("Add", self.add("Mul", near, square), self.real(1))  # ((a + 2) d - (a + 3)) d² + 1
        far = self.add("Add", self.add("Mul", self.add("Sub", distance, self.real(5)), distance), self.real(8))
        far = self.add("Mul", self.add("Sub", self.add("Mul", far, distance), self.real(4)), self.real(-0.5))
        far = self.add("Where", self.add("Less", distance, self.real(2)), far, self.real(0))
        kernel = self.add("Where", self.add("Less", distance, self.real(1)), near, far)
        kernel = self.add("Div", kernel, self.add("ReduceSum", kernel, self.constant(np.asarray([1])), keepdims=1))
        fixed = self.add("Mul", kernel, self.real(1 << _RESAMPLE_BITS))
        away = self.add("Floor", self.add("Add", self.add("Abs", fixed), self.real(0.5)))  # half away from zero
        return self.add("Div", self.add("Mul", away, self.add("Sign", fixed)), self.real(1 << _RESAMPLE_BITS))

    def eight_bits(self, x: str) -> str:
        """Rounded to a whole number from 0 to 255. Exact: the sums are multiples of 2^-22 below 2^9."""
        rounded = self.add("Floor", self.add("Add", x, self.real(0.5)))
        return self.add("Clip", rounded, self.real(0), self.real(255))
