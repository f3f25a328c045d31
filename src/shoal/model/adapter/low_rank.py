"""The term that an adapter adds to a matrix of a model: scale * B A, with two matrices of low rank.

Shapes: N outputs, K inputs, R ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, I64
from shoal.model.formats.gguf.blocks import to_dense
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.weights import Range

ITEM_TYPES = {Kind.F32: "<f4", Kind.F16: "<u2", Kind.BF16: "<u2"}
"""NumPy types for a file's numbers; those of 16 bits are widened only when they are multiplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floats:
    """A matrix of floats with the number of bits that it has in the file."""

    kind: Kind
    """One of ITEM_TYPES."""
    items: npt.NDArray[Any]
    """[rows, columns], views of the file if possible"""

    @property
    def shape(self) -> tuple[int, int]:
        return self.items.shape[0], self.items.shape[1]

    @property
    def item_bytes(self) -> int:
        return self.items.itemsize

    def values(self) -> F32:
        """The values in fp32, exactly."""
        return to_dense(np.ascontiguousarray(self.items).view(np.uint8), self.kind)

    def widened(self) -> Floats:
        """The same matrix in fp32."""
        return Floats(kind=Kind.F32, items=self.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """scale * B A. Source: LoRA, arXiv 2106.09685, section 4.1."""

    a: Floats
    """[R, K]"""
    b: Floats
    """[N, R]"""
    scale: float
    module: str
    """Name of the module in the file; parts of one module share A."""

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def rows(self, numbers: slice | I64) -> LowRank:
        """The term for some rows of the matrix."""
        return replace(self, b=replace(self.b, items=self.b.items[numbers]))

    def part(self, rows: Range | None, columns: Range | None) -> LowRank:
        """The term for a part of the matrix; None: all rows or columns."""
        own = self if rows is None else self.rows(slice(*rows))
        return own if columns is None else replace(own, a=replace(self.a, items=self.a.items[:, slice(*columns)]))

    def product(self) -> F32:
        """scale * B A [N, K]."""
        return np.float32(self.scale) * (self.b.values() @ self.a.values())
