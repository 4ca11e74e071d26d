"""A network in eight bits: static quantisation of an ONNX file, calibrated on pictures.

Weights are signed and have a scale for each output channel, activations are unsigned and have one for each tensor
(Jacob et al. 2018, arXiv:1712.05877), written as QuantizeLinear and DequantizeLinear pairs (QDQ) that ONNX Runtime turns into integer
kernels. Weights use seven of their eight bits: processors without VNNI add products in pairs into 16 bits, which
255 × 127 × 2 would overflow and 255 × 64 × 2 does not, so the file answers alike everywhere.

Loads no torch.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from search.runtime import INPUT, session_options, threads

CALIBRATION_PICTURES = 256  # beyond a few hundred the ranges hardly move
_BATCH = 32
_QUANTIZED = ("Conv", "Add", "Concat", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool")


class NotQuantizableError(ValueError):
    """The network has no layer whose weights could be kept in eight bits."""


def quantize(model: bytes, pictures: NDArray[np.uint8]) -> bytes:
    """The network of `model`, an ONNX file of `search.export`, in eight bits, with the same input, output and metadata.

    pictures: uint8 (N, S, S, C), N >= 1, of the training: their activations set the ranges. What lies before the first
    convolution (resize, normalisation) and after the last (the head, softmax) stays in float32: it costs nothing and
    decides much. Raises NotQuantizableError.
    """
    network = onnx.load_from_string(model)
    metadata = {entry.key: entry.value for entry in network.metadata_props}
    _pool_last(network.graph)
    with tempfile.TemporaryDirectory(prefix="quantize-") as scratch:
        prepared, quantised = Path(scratch) / "prepared.onnx", Path(scratch) / "quantised.onnx"
        # Folds batch normalisation into the convolutions before it, which then have one rounding, not two.
        options: Any = session_options(threads())
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(prepared)
        onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
        network = onnx.shape_inference.infer_shapes(onnx.load(prepared))
        for place, node in enumerate(network.graph.node):
            node.name = f"{node.op_type}_{place}"
        onnx.helper.set_model_props(
            network, {"onnx.quant.pre_process": "onnxruntime.quant"}
        )  # silences advice to do this
        onnx.save(network, prepared)
        quantize_static(
            prepared,
            quantised,
            _Pictures(pictures),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=_QUANTIZED,
            nodes_to_quantize=_convolutional(network.graph),
        )
        result = onnx.load(quantised)
    result.producer_name = "netwright"
    onnx.helper.set_model_props(result, metadata)
    return bytes(result.SerializeToString(deterministic=True))


def _pool_last(graph: onnx.GraphProto) -> None:
    """Where a normalisation of growing scale follows a maximum over neighbours, have it come first: the same numbers,
    and it can be folded into the convolution before both."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    for place, norm in enumerate(nodes):
        if norm.op_type != "BatchNormalization" or (onnx.numpy_helper.to_array(weights[norm.input[1]]) <= 0).any():
            continue
        before = [at for at, node in enumerate(nodes) if node.op_type == "MaxPool" and node.output[0] == norm.input[0]]
        readers = sum(norm.input[0] in node.input for node in nodes)
        if not before or readers > 1:
            continue
        pool, between = nodes[before[0]], norm.input[0]
        norm.input[0], pool.input[0] = pool.input[0], between
        pool.output[0], norm.output[0] = norm.output[0], between
        nodes[before[0]], nodes[place] = norm, pool
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)


def _convolutional(graph: onnx.GraphProto) -> list[str]:
    """The names of the nodes from the first convolution to the last."""
    nodes = list(graph.node)
    layers = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    if not layers:
        raise NotQuantizableError("the network has no convolution, so there is nothing that eight bits would speed up")
    return [node.name for node in nodes[layers[0] : layers[-1] + 1]]


class _Pictures(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    """Gives out the calibration pictures, a batch at a time."""

    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(
            [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
