"""Writes a module as an ONNX graph in milliseconds.

torch's own exporter takes 2 to 5 seconds for a small network on 2 cores (torch 2.13: it traces, decomposes, translates
and optimises), which is too long for a search that ships its best after every improvement. Our networks are made of
few operations, so the module is traced symbolically once and each operation written down from a table.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional as F

_OPSET, _IR = 20, 10  # what ONNX Runtime 1.22 reads


class UnsupportedOperationError(NotImplementedError):
    """A module uses an operation that has no line in the table; the message names it."""


def write(
    module: nn.Module, *, input_name: str, input_shape: tuple[int, ...], output_name: str, classes: int
) -> onnx.ModelProto:
    """module: in evaluation mode, traceable by torch.fx, one uint8 tensor (N, *input_shape) to float32 (N, classes)."""
    traced = fx.GraphModule(module, _Tracer().trace(module))
    writer = _Writer(traced)
    for node in traced.graph.nodes:
        writer.take(node, input_name, output_name)
    graph = helper.make_graph(
        writer.nodes,
        "network",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, ["N", *input_shape])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["N", classes])],
        list(writer.constants.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="netwright")
    model.ir_version = _IR
    return model


_WHOLE = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.Linear,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Identity,
    nn.Dropout,
)


class _Tracer(fx.Tracer):
    """Takes what the table knows as a whole, subclasses included, and looks into everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - fx calls by name
        return isinstance(m, _WHOLE)


class _Writer:
    """The ONNX nodes and constants of a traced module, and the name of each value computed so far."""

    def __init__(self, traced: fx.GraphModule):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._names: dict[fx.Node, str] = {}
        self._modules = dict(traced.named_modules())
        self._traced = traced

    def take(self, node: fx.Node, input_name: str, output_name: str) -> None:
        if node.op == "placeholder":
            self._names[node] = input_name
        elif node.op == "get_attr":
            self._names[node] = self.constant(str(node.target), operator.attrgetter(str(node.target))(self._traced))
        elif node.op == "output":
            self.nodes.append(helper.make_node("Identity", [self.value(node.args[0])], [output_name]))
        elif node.op == "call_module":
            module = self._modules[str(node.target)]
            self._names[node] = self._of_module(module, str(node.target), node)
        else:
            line = _FUNCTIONS.get(node.target)
            if line is None:
                raise UnsupportedOperationError(f"{node.target} (node {node.name}) cannot be written as ONNX yet")
            self._names[node] = line(self, *node.args, **node.kwargs)

    def value(self, argument: Any) -> str:
        """The name of what an argument stands for; numbers become constants."""
        if isinstance(argument, fx.Node):
            return self._names[argument]
        return self.constant(f"number_{argument}", torch.tensor(float(argument)))

    def constant(self, name: str, value: Tensor) -> str:
        self.constants[name] = numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name)
        return name

    def integers(self, *values: int) -> str:
        name = "integers_" + "_".join(map(str, values))
        self.constants[name] = numpy_helper.from_array(np.asarray(values, np.int64), name)
        return name

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def _of_module(self, module: nn.Module, path: str, node: fx.Node) -> str:
        x = self.value(node.args[0])
        if isinstance(module, nn.Conv2d):
            if isinstance(module.padding, str) or module.padding_mode != "zeros":
                raise UnsupportedOperationError(f"padding {module.padding!r} of {path} cannot be written as ONNX yet")
            inputs = [x, self.constant(f"{path}.weight", module.weight)]
            inputs += [] if module.bias is None else [self.constant(f"{path}.bias", module.bias)]
            return self.add(
                "Conv",
                *inputs,
                kernel_shape=module.kernel_size,
                strides=module.stride,
                pads=[*module.padding] * 2,
                dilations=module.dilation,
                group=module.groups,
            )
        if isinstance(module, nn.BatchNorm2d):
            parts = {name: getattr(module, name) for name in ("weight", "bias", "running_mean", "running_var")}
            names = [self.constant(f"{path}.{name}", value) for name, value in parts.items()]
            return self.add("BatchNormalization", x, *names, epsilon=module.eps)
        if isinstance(module, nn.Linear):
            names = [self.constant(f"{path}.weight", module.weight), self.constant(f"{path}.bias", module.bias)]
            return self.add("Gemm", x, *names, transB=1)
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            return self._pooled(x, module)
        if isinstance(module, nn.ReLU):
            return self.add("Relu", x)
        if isinstance(module, nn.GELU):
            return self.add("Gelu", x, approximate=module.approximate)
        if isinstance(module, nn.SiLU):
            return self.add("Mul", x, self.add("Sigmoid", x))
        if isinstance(module, nn.Identity | nn.Dropout):
            return x
        raise UnsupportedOperationError(f"{type(module).__name__} ({path}) cannot be written as ONNX yet")

    def _pooled(self, x: str, module: nn.MaxPool2d | nn.AvgPool2d) -> str:
        pair: Callable[[Any], list[int]] = lambda size: [size, size] if isinstance(size, int) else [*size]  # noqa: E731
        stride = pair(module.kernel_size if module.stride is None else module.stride)
        rest: dict[str, Any] = {"strides": stride, "pads": pair(module.padding) * 2, "ceil_mode": int(module.ceil_mode)}
        if isinstance(module, nn.MaxPool2d):
            return self.add("MaxPool", x, kernel_shape=pair(module.kernel_size), **rest)
        counted = int(module.count_include_pad)
        return self.add("AveragePool", x, kernel_shape=pair(module.kernel_size), count_include_pad=counted, **rest)


# ------------------------------------------------------------------------------------------ functions and methods


def _binary(operation: str) -> Callable[..., str]:
    return lambda writer, one, other: writer.add(operation, writer.value(one), writer.value(other))


def _cat(writer: _Writer, parts: Any, dim: int = 0) -> str:
    return writer.add("Concat", *map(writer.value, parts), axis=dim)


def _flip(writer: _Writer, x: fx.Node, *dims: int) -> str:
    ends = [writer.integers(*[value] * len(dims)) for value in (-1, -(2**31))]
    return writer.add("Slice", writer.value(x), *ends, writer.integers(*dims), writer.integers(*[-1] * len(dims)))


def _getitem(writer: _Writer, x: fx.Node, index: Any) -> str:
    """Slices of steps of one, such as `x[:, :, 1:, 1:]`."""
    if not isinstance(index, tuple) or not all(isinstance(part, slice) and part.step in (None, 1) for part in index):
        raise UnsupportedOperationError(f"the index {index} cannot be written as ONNX yet")
    cut = [(axis, part) for axis, part in enumerate(index) if part != slice(None)]
    starts = writer.integers(*(part.start or 0 for _, part in cut))
    ends = writer.integers(*(2**31 if part.stop is None else part.stop for _, part in cut))
    return writer.add("Slice", writer.value(x), starts, ends, writer.integers(*(axis for axis, _ in cut)))


def _pad(writer: _Writer, x: fx.Node, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> str:
    if mode != "constant" or value or len(pad) != 4:
        raise UnsupportedOperationError(f"padding by {pad} in mode {mode!r} cannot be written as ONNX yet")
    left, right, top, bottom = pad
    return writer.add("Pad", writer.value(x), writer.integers(0, 0, top, left, 0, 0, bottom, right))


def _reduced(operation: str) -> Callable[..., str]:
    def line(writer: _Writer, x: fx.Node, dim: int | tuple[int, ...]) -> str:
        dims = (dim,) if isinstance(dim, int) else dim
        return writer.add(operation, writer.value(x), writer.integers(*dims), keepdims=0)

    return line


_Line = Callable[..., str]
_FUNCTIONS: dict[Any, _Line] = {
    operator.add: _binary("Add"),
    operator.sub: _binary("Sub"),
    operator.mul: _binary("Mul"),
    operator.truediv: _binary("Div"),
    torch.matmul: _binary("MatMul"),
    operator.getitem: _getitem,
    torch.cat: _cat,
    F.relu: lambda writer, x, **_: writer.add("Relu", writer.value(x)),
    F.pad: _pad,
    F.softmax: lambda writer, x, dim, **_: writer.add("Softmax", writer.value(x), axis=dim),
    "float": lambda writer, x: writer.add("Cast", writer.value(x), to=TensorProto.FLOAT),
    "permute": lambda writer, x, *dims: writer.add("Transpose", writer.value(x), perm=dims),
    "contiguous": lambda writer, x, **_: writer.value(x),
    "flip": _flip,
    "amax": _reduced("ReduceMax"),
    "mean": _reduced("ReduceMean"),
    "reshape": lambda writer, x, *shape: writer.add("Reshape", writer.value(x), writer.integers(*shape)),
}
