"""What graphs of vision parts have in common: layers whose weights are found by tensor names.

Shapes: N patches, D hidden size, H heads of C columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from shoal.arrays import F32
from shoal.model.decoder.onnx.graph_builder import GraphBuilder

_FLOAT = 1
"""Source: ONNX, TensorProto.FLOAT"""
_HALVES: Mapping[str, Any] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16}
"""File types of matrices with 16 bits a value."""


class TowerTensors(Protocol):
    """The tensors of a vision part, by transformers' names."""

    @property
    def path(self) -> Path:
        """The file or folder, for messages."""
        ...

    def read(self, name: str, *dims: int | None) -> F32:
        """A tensor as floats, a copy or a view.

        Args:
            name: within the vision part.
            dims: the shape that it must have; None: any size.

        Raises:
            ModelLoadError: the tensor is missing, of another shape or broken.
        """
        ...

    def dtype_of(self, name: str) -> str:
        """The tensor's type in the file, such as `BF16`. Raises ModelLoadError if it is missing."""
        ...


class TowerGraph(GraphBuilder):
    """Builds a graph from tensors. Matrices keep the file's type, which may be half as large as fp32: ONNX Runtime
    widens them once, when it loads them."""

    def __init__(self, tensors: TowerTensors) -> None:
        super().__init__(str(tensors.path))
        self._tensors = tensors

    def tensor(self, name: str, *dims: int | None) -> F32:
        """See `TowerTensors.read`."""
        return self._tensors.read(name, *dims)

    def ints(self, *values: int) -> str:
        """A constant shape, or other whole numbers."""
        return self.constant(np.array(values, np.int64))

    def matrix(self, name: str, values_KN: F32) -> str:
        """A constant matrix, whose values come from the tensor `name`."""
        values_KN = np.ascontiguousarray(values_KN)
        half = _HALVES.get(self._tensors.dtype_of(name))
        if half is None:
            return self.constant(values_KN)
        return self.node("Cast", [self.constant(values_KN.astype(half))], to=_FLOAT)

    def dense(self, x: str, name: str, num_in: int, num_out: int, *, has_bias: bool = True) -> str:
        """x times a linear layer, plus its bias."""
        weight_NK = self.tensor(f"{name}.weight", num_out, num_in)
        y = self.node("MatMul", [x, self.matrix(f"{name}.weight", weight_NK.T)])
        return self.add(y, self.tensor(f"{name}.bias", num_out)) if has_bias else y

    def layer_norm(self, x: str, name: str, width: int, epsilon: float) -> str:
        """A LayerNorm with its bias."""
        return self.center_norm(x, self.tensor(f"{name}.weight", width), epsilon, self.tensor(f"{name}.bias", width))

    def reshape(self, x: str, dims: Sequence[int]) -> str:
        """Reshape; 0: the size stays, -1: what is left."""
        return self.node("Reshape", [x, self.ints(*dims)])

    def swap(self, x: str, order: Sequence[int]) -> str:
        """Transpose to another order of dims."""
        return self.node("Transpose", [x], perm=list(order))

    def turn(self, x_ND: str, turns: tuple[str, str], num_heads: int, head_dim: int) -> str:
        """Half-split rotation of each head, [N, H, C]: pair i is columns i and i + C / 2.

        `turns`: cosine and sine, [N, 1, C / 2].
        """
        cos, sin = turns
        half = head_dim // 2
        first, second = self.split(self.reshape(x_ND, (0, num_heads, head_dim)), [half, half])

        def product(part: str, factor: str) -> str:
            return self.node("Mul", [part, factor])

        turned = self.node("Sub", [product(first, cos), product(second, sin)])
        other = self.node("Add", [product(second, cos), product(first, sin)])
        return self.node("Concat", [turned, other], axis=-1)

    def attention(self, query: str, key: str, value: str, num_heads: int, scale: float) -> str:
        """Attention of every row over all rows of its picture, without storing all scores: [B, N, D] each."""
        return self.node(
            "MultiHeadAttention", [query, key, value], domain="com.microsoft", num_heads=num_heads, scale=scale
        )
