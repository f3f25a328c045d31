"""Which rows of a step attend together, and over which slots: host-side metadata of the attention graphs.

Shapes: T rows, G rows of a group, B sequences of a group, L slots of context, S tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, I64, Array
from shoal.model.attention.interface import AttentionShape
from shoal.model.attention.paged_attention_numpy import NumpyStep

_UNSEEN = np.float32(-6e4)
"""Added to scores of tokens that a row does not see. It is finite even in 16 bits, since some kernels subtract the
largest score first; real scores are far smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows that attend in one run."""

    rows_G1: I64
    """Numbers of the rows in the step."""
    positions_G: I64
    """Positions of the rows in their sequences."""
    context_BL: I64
    """Slots of the cache, in whole blocks. Slots beyond a context's end are those of block 0, which no row sees."""
    lengths_B: I64
    """Number of tokens in each context."""

    @property
    def is_one_sequence(self) -> bool:
        """Whether all rows belong to one sequence; otherwise each belongs to another one."""
        return len(self.lengths_B) == 1

    @property
    def is_lone_row(self) -> bool:
        """Whether the group is a single row with tokens before it."""
        return len(self.rows_G1) == 1 and self.lengths_B[0] > 1

    @property
    def lone_row(self) -> dict[str, Array]:
        """The inputs of a single row's graph that are not on the device."""
        before = int(self.lengths_B[0]) - 1
        lengths = {name: np.array([length], np.int32) for name, length in (("before", before), ("all", before + 1))}
        return {"context": self.context_BL[:, :before], **lengths}

    def mask(self, shape: AttentionShape) -> F32:
        """Mask [B, 1, M, L], with M the query heads of a key head, or those of all rows: 0 for what a row sees,
        otherwise very low."""
        keys_L = np.arange(self.context_BL.shape[1])
        distance_GL = self.positions_G[:, None] - keys_L
        seen_GL = distance_GL >= 0
        if shape.window and shape.in_chunks:
            seen_GL &= keys_L >= self.positions_G[:, None] // shape.window * shape.window
        elif shape.window:
            seen_GL &= distance_GL < shape.window
        mask_GL = np.where(seen_GL, np.float32(0), _UNSEEN)
        mask_ML = np.repeat(mask_GL, shape.num_heads // shape.num_kv_heads, axis=0)
        return mask_ML.reshape(len(self.lengths_B), 1, -1, keys_L.size)

    def sinks(self, sinks_H: F32, shape: AttentionShape) -> F32:
        """Sinks [B, K, M, 1]: each head's sink in the order of the rows of `mask`."""
        num_rows = len(self.rows_G1) if self.is_one_sequence else 1
        sinks_KM = np.tile(sinks_H.reshape(shape.num_kv_heads, -1), (1, num_rows))
        return np.broadcast_to(sinks_KM[None, :, :, None], (len(self.lengths_B), *sinks_KM.shape, 1))


def row_groups(step: NumpyStep, block_size: int) -> Iterator[RowGroup]:
    """Each piece of a prompt as a group, then one group of all rows that are alone in their sequence."""
    starts, counts = step.query_starts_B1[:-1], np.diff(step.query_starts_B1)
    for b in np.flatnonzero(counts > 1):
        yield _group(step, np.arange(starts[b], starts[b] + counts[b]), np.array([b]), block_size)
    if (single := np.flatnonzero(counts == 1)).size:
        yield _group(step, starts[single], single, block_size)


def slots_of_rows(step: NumpyStep, block_size: int) -> I64:
    """The slot in which each row's key and value are kept, [T, 1]."""
    sequences_T = np.repeat(np.arange(step.num_sequences), np.diff(step.query_starts_B1))
    blocks_T = step.block_tables_BM[sequences_T, step.positions_T // block_size]
    return (blocks_T.astype(np.int64) * block_size + step.positions_T % block_size).reshape(-1, 1)


def _group(
    step: NumpyStep, rows: npt.NDArray[np.integer], sequences: npt.NDArray[np.integer], block_size: int
) -> RowGroup:
    lengths_B = step.context_lens_B[sequences].astype(np.int64)
    num_blocks = -(-int(lengths_B.max()) // block_size)
    blocks_BM = np.maximum(step.block_tables_BM[sequences, :num_blocks], 0).astype(np.int64)
    slots_BMS = blocks_BM[:, :, None] * block_size + np.arange(block_size)
    return RowGroup(
        rows_G1=rows.astype(np.int64).reshape(-1, 1),
        positions_G=step.positions_T[rows].astype(np.int64),
        context_BL=slots_BMS.reshape(len(sequences), -1),
        lengths_B=lengths_B,
    )
