"""What graphs of vision parts have in common: layers whose weights come by the names of tensors.

Shapes: N patches, D hidden size, H heads of C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from shoal.arrays import F32
from shoal.model.decoder.onnx.graph_builder import GraphBuilder
from shoal.model.formats.huggingface.part_tensors import PartTensors

_FLOAT = 1
"""Source: ONNX, TensorProto.FLOAT"""


class TowerGraph(GraphBuilder):
    """A graph in the making, and the tensors that it is made of. Matrices stay in the file's type, which is half as
    large as fp32: ONNX Runtime widens them once, as it loads them."""

    def __init__(self, folder: Path, ends: str) -> None:
        """`ends`: see `PartTensors`. Raises ModelLoadError."""
        super().__init__(str(folder))
        self._tensors = PartTensors(folder, ends)

    def tensor(self, name: str, *dims: int | None) -> F32:
        """See `PartTensors.read`."""
        return self._tensors.read(name, *dims)

    def ints(self, *values: int) -> str:
        """A shape, or other whole numbers."""
        return self.constant(np.array(values, np.int64))

    def matrix(self, name: str, values_KN: F32) -> str:
        """A constant matrix that was read from the tensor `name`."""
        values_KN = np.ascontiguousarray(values_KN)
        if self._tensors.dtype_of(name) != "BF16":
            return self.constant(values_KN)
        return self.node("Cast", [self.constant(values_KN.astype(ml_dtypes.bfloat16))], to=_FLOAT)

    def dense(self, x: str, name: str, num_in: int, num_out: int, *, has_bias: bool = True) -> str:
        """x times a linear layer, with its bias."""
        weight_NK = self.tensor(f"{name}.weight", num_out, num_in)
        y = self.node("MatMul", [x, self.matrix(f"{name}.weight", weight_NK.T)])
        return self.add(y, self.tensor(f"{name}.bias", num_out)) if has_bias else y

    def layer_norm(self, x: str, name: str, width: int, epsilon: float) -> str:
        """A LayerNorm with its bias."""
        return self.center_norm(x, self.tensor(f"{name}.weight", width), epsilon, self.tensor(f"{name}.bias", width))

    def reshape(self, x: str, dims: Sequence[int]) -> str:
        """Another shape; 0: as it is, -1: what is left."""
        return self.node("Reshape", [x, self.ints(*dims)])

    def swap(self, x: str, order: Sequence[int]) -> str:
        """Dims in another order."""
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
        """Every row over all rows of its picture, without ever keeping all scores: [B, N, D] each."""
        return self.node(
            "MultiHeadAttention", [query, key, value], domain="com.microsoft", num_heads=num_heads, scale=scale
        )
