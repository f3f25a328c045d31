"""Keys and values of all sequences of a replica, in the scheduler's blocks, from which a graph's caches are assembled.

With blocks, sequences come, go and share beginnings as in any other model; a run gets contiguous copies.

Shapes: N blocks of S tokens, B rows, P cells, H heads, D dimensions, R new tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from shoal.arrays import I32, Array
from shoal.model.graph.stage.ort_values import as_array, to_value
from shoal.model.language_graph.form import CacheTensor
from shoal.model.language_graph.padding import Side, first_cell


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokens:
    """Where the new tokens of a run lie in its results, and where they are stored."""

    rows: I32
    """[R] rows of the run"""
    cells: I32
    """[R] cells of these rows"""
    blocks: I32
    """[R] blocks in which they are stored"""
    offsets: I32
    """[R] offsets in these blocks"""


class CachePool:
    """The blocks of every cache. Memory is allocated as it is written."""

    def __init__(self, caches: Sequence[CacheTensor], *, num_blocks: int, block_size: int) -> None:
        self._dtypes = [cache.dtype for cache in caches]
        self._pools = [
            np.zeros((num_blocks, cache.num_heads, block_size, cache.dim), np.dtype(cache.dtype)) for cache in caches
        ]
        self._block_size = block_size

    def gather(self, tables: Sequence[I32], lengths: Sequence[int], num_cells: int, side: Side) -> list[ort.OrtValue]:
        """Copies [B, H, P, D] of every cache, with zeros as padding.

        Args:
            tables: each row's blocks.
            lengths: tokens of each row's past, at most `num_cells`.
            num_cells: P.
            side: of the padding.
        """
        return [
            to_value(self._gathered(pool, tables, lengths, num_cells, side), dtype)
            for pool, dtype in zip(self._pools, self._dtypes, strict=True)
        ]

    def put(self, presents: Sequence[ort.OrtValue], new: NewTokens) -> None:
        """Store the new tokens of a run.

        Args:
            presents: [B, H, C, D] of every cache.
            new: which of the cells to store, and where.
        """
        for pool, present in zip(self._pools, presents, strict=True):
            pool[new.blocks, :, new.offsets] = as_array(present)[new.rows, :, new.cells]

    def _gathered(
        self, pool_NHSD: Array, tables: Sequence[I32], lengths: Sequence[int], num_cells: int, side: Side
    ) -> Array:
        _, num_heads, size, dim = pool_NHSD.shape
        past_BHPD = np.zeros((len(tables), num_heads, num_cells, dim), pool_NHSD.dtype)
        for past_HPD, table, length in zip(past_BHPD, tables, lengths, strict=True):
            first = first_cell(side, num_cells, length)
            for number, block in enumerate(table[: -(-length // size)].tolist()):
                count = min(size, length - number * size)
                place = first + number * size
                past_HPD[:, place : place + count] = pool_NHSD[block, :, :count]
        return past_BHPD
