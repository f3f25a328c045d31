"""One multilayer perceptron computed whole and split in three ways: by hand with NumPy, and by Shoal.

    python examples/perceptron.py
    python examples/perceptron.py --sizes 64 256 256 256 10 --rows 100

Every way of splitting has a function below that does its arithmetic in plain sight. All of them must give the same
numbers as the whole network, and Shoal's workers must give the same numbers as the function.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

import shoal

F32 = npt.NDArray[np.float32]
# Shape suffixes: B rows of a batch, I inputs of a layer, O outputs of a layer.

_TOLERANCE = 1e-5
"""Relative to the largest number of the answer: fp32 sums may be taken in another order."""
_OPSET = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """y_BO = f(x_BI @ weight_IO + bias_O), where f cuts off below zero, except in the last layer."""

    weight_IO: F32
    bias_O: F32
    is_last: bool

    def __call__(self, x_BI: F32) -> F32:
        """The layer's answer for every row."""
        # Row b, output o: sum over i of x[b, i] * weight[i, o], plus bias[o]. No row looks at another row.
        y_BO = x_BI @ self.weight_IO + self.bias_O
        return y_BO if self.is_last else np.maximum(y_BO, 0)


def whole(layers: Sequence[Layer], x_BI: F32) -> F32:
    """The network on one worker: y = f3(f2(f1(x)))."""
    for layer in layers:
        x_BI = layer(x_BI)
    return x_BI


def data_parallel(layers: Sequence[Layer], x_BI: F32) -> F32:
    """Two workers, each with all layers and half of the rows."""
    # The batch is cut:                                  x = [upper; lower]
    upper, lower = np.array_split(x_BI, 2)
    # Rows are independent, so each worker computes its own as if there were no others, and the answers are
    # concatenated in the order of the rows, not added:  y = [f(upper); f(lower)]
    return np.concatenate([whole(layers, upper), whole(layers, lower)])


def pipeline(layers: Sequence[Layer], x_BI: F32) -> F32:
    """Two workers, each with half of the layers and all rows, which pass in small batches."""
    # The network is cut between two layers, and the parts are composed:  y = second(first(x))
    middle = len(layers) // 2
    first, second = layers[:middle], layers[middle:]
    # With one batch, the second worker would wait for the first and then the first for the second. With several small
    # ones, both work at the same time:    first:   x0  x1  x2  x3
    #                                      second:      x0  x1  x2  x3
    # m small batches take m + 1 steps instead of 2 m: nearly twice as fast, if both halves take equally long.
    micro_batches = np.array_split(x_BI, min(4, len(x_BI)))
    return np.concatenate([whole(second, whole(first, rows)) for rows in micro_batches])


def tensor_parallel(layers: Sequence[Layer], x_BI: F32) -> F32:
    """Two workers, each with a part of every layer and all rows."""
    # Layers are taken in pairs, y = f2(relu(f1(x))), and each worker holds the half of both that belongs together:
    # the first layer's weights are cut by columns, the second's by rows.
    for first, second in zip(layers[::2], layers[1::2], strict=False):
        # A column of weights makes one output, so each worker's columns make its slice of the outputs:
        #     h = [relu(x @ A_left + a_left) | relu(x @ A_right + a_right)]
        # The slices are complete values, which a nonlinearity may see, and they are concatenated, not added.
        slices_BO = [half(x_BI) for half in _columns(first)]
        # But nobody needs them side by side: a product's inputs are summed over, and a sum can be taken in two parts:
        #     h @ B = h_left @ B_upper + h_right @ B_lower
        # So each worker multiplies its slice with the rows of B that belong to it, and the partial sums are added. This
        # all-reduce is the only time the workers talk in two layers.
        partial_sums_BO = [h_BI @ weight_IO for h_BI, weight_IO in zip(slices_BO, _rows(second), strict=True)]
        # The bias is added once, after the sum: if each worker added it, it would count twice. The nonlinearity comes
        # after the sum too, because relu(u + v) is not relu(u) + relu(v).
        sum_BO = partial_sums_BO[0] + partial_sums_BO[1] + second.bias_O
        x_BI = sum_BO if second.is_last else np.maximum(sum_BO, 0)
    if len(layers) % 2:
        # A layer without a partner: its slices have to be concatenated after all (an all-gather).
        x_BI = np.concatenate([half(x_BI) for half in _columns(layers[-1])], axis=1)
    return x_BI


def _columns(layer: Layer) -> list[Layer]:
    """The layer as two layers that have half of the outputs each."""
    weights_IO, biases_O = np.array_split(layer.weight_IO, 2, axis=1), np.array_split(layer.bias_O, 2)
    return [
        Layer(weight_IO=weight_IO, bias_O=bias_O, is_last=layer.is_last)
        for weight_IO, bias_O in zip(weights_IO, biases_O, strict=True)
    ]


def _rows(layer: Layer) -> list[F32]:
    """The weights that the two halves of the layer's inputs meet."""
    return np.array_split(layer.weight_IO, 2)


WAYS: Mapping[str, Callable[[Sequence[Layer], F32], F32]] = {
    "1": whole,
    "dp=2": data_parallel,
    "tp=2": tensor_parallel,
    "pp=2": pipeline,
}
"""What Shoal calls each split, and what it means."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute every way by hand and by Shoal, and print the largest differences."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if len(options.sizes) < 3 or min(options.sizes) < 1 or options.rows < 2:
        parser.error("two workers need two layers, so three sizes or more, and two rows or more")
    layers = make_layers(options.sizes)
    x_BI = np.random.default_rng(1).standard_normal((options.rows, options.sizes[0]), dtype=np.float32)
    y_BO = whole(layers, x_BI)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "perceptron.onnx"
        onnx.save(to_onnx(layers), path)
        print(f"{'split':7}{'workers':>8}{'by hand - whole':>18}{'Shoal - by hand':>18}")
        for split, by_hand in WAYS.items():
            expected_BO = by_hand(layers, x_BI)
            with shoal.load(path, split=split, threads=1) as model:
                computed_BO = model(x_BI)["y"]
                num_workers = model.plan.num_workers
            errors = difference(expected_BO, y_BO), difference(computed_BO, expected_BO)
            print(f"{split:7}{num_workers:8}{errors[0]:18.1e}{errors[1]:18.1e}")
            if max(errors) > _TOLERANCE:
                raise SystemExit(f"{split} does not compute the same network")


def make_layers(sizes: Sequence[int]) -> list[Layer]:
    """Random layers between consecutive sizes, scaled so that numbers neither grow nor shrink from layer to layer."""
    rng = np.random.default_rng(0)
    return [
        Layer(
            weight_IO=rng.standard_normal((num_in, num_out), dtype=np.float32) * np.float32((2 / num_in) ** 0.5),
            bias_O=rng.standard_normal(num_out, dtype=np.float32),
            is_last=index == len(sizes) - 2,
        )
        for index, (num_in, num_out) in enumerate(pairwise(sizes))
    ]


def to_onnx(layers: Sequence[Layer]) -> onnx.ModelProto:
    """The same network as an ONNX graph `x (batch, inputs) -> y (batch, outputs)`: Gemm, Relu, Gemm, ..."""
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []
    value = "x"
    for index, layer in enumerate(layers):
        names = f"weight{index}", f"bias{index}"
        weights += map(numpy_helper.from_array, (layer.weight_IO, layer.bias_O), names)
        result = "y" if layer.is_last else f"sum{index}"
        nodes.append(helper.make_node("Gemm", [value, *names], [result]))
        if not layer.is_last:
            nodes.append(helper.make_node("Relu", [result], [f"hidden{index}"]))
        value = f"hidden{index}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", layers[0].weight_IO.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", layers[-1].weight_IO.shape[1]])
    graph = helper.make_graph(nodes, "perceptron", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def difference(computed: F32, expected: F32) -> float:
    """Largest difference, relative to the largest expected number."""
    return float(np.abs(computed - expected).max() / np.abs(expected).max())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="One multilayer perceptron: whole, data parallel, tensor parallel, as a pipeline."
    )
    sizes = [64, 256, 256, 256, 10]
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=sizes, help="of the input and of every layer (%(default)s)"
    )
    parser.add_argument("--rows", type=int, default=32, help="of the batch, at least 2 (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
