"""Small ONNX graphs with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a graph of opset 17."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializer=initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """A float32 input or output."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def skip_chain(path: Path, depth: int = 4, width: int = 8) -> Path:
    """`depth` layers tanh(x W + b) with b from layer to layer, and the first one's output added at the end.

    Input `x` [N, width], outputs `y` [N, width] and `first` [N, width].
    """
    random = np.random.default_rng(0)
    weights, nodes, value = {}, [], "x"
    for layer in range(depth):
        weights[f"w{layer}"] = random.standard_normal((width, width), np.float32)
        out = "first" if layer == 0 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [out]))
        value = out
    nodes.append(helper.make_node("Add", [value, "first"], ["y"]))
    return save_graph(
        path, nodes, [floats("x", "N", width)], [floats("y", "N", width), floats("first", "N", width)], weights
    )


def strict_reshape(path: Path) -> Path:
    """Input `x` [N, M] reshaped to [-1, 4] in the second node: other sizes than multiples of 4 cannot be computed."""
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Reshape", ["n", "shape"], ["r"]),
        helper.make_node("Neg", ["r"], ["s"]),
        helper.make_node("Neg", ["s"], ["y"]),
    ]
    return save_graph(path, nodes, [floats("x", "N", "M")], [floats("y", "K", 4)], {"shape": np.array([-1, 4])})
