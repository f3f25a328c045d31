"""Token embedding: rows of a matrix that stays in its own format and is widened row by row.

Shapes: T tokens, D hidden size, G = D / BLOCK.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.model.weights import BLOCK, BlockWeight, DenseWeight, Weight

F32 = npt.NDArray[np.float32]


class Embedding:
    """Looks rows up; a quantized matrix takes its quantized size in memory."""

    def __init__(self, matrix: Weight, scale: float) -> None:
        self._matrix = matrix
        self._scale = np.float32(scale)

    def rows(self, token_ids_T: npt.NDArray[np.int32]) -> F32:
        """The embedding of each token, [T, D]. Raises ValueError for an id outside the vocabulary."""
        vocab_size = self._matrix.shape[0]
        if token_ids_T.min() < 0 or token_ids_T.max() >= vocab_size:
            raise ValueError(f"a token id is outside the vocabulary of {vocab_size}")
        match self._matrix:
            case DenseWeight(values_NK=values):
                rows_TD = values[token_ids_T]
            case BlockWeight():
                rows_TD = _block_rows(self._matrix, token_ids_T)
        return rows_TD if self._scale == 1.0 else rows_TD * self._scale


def _block_rows(matrix: BlockWeight, rows_T: npt.NDArray[np.int32]) -> F32:
    """w = (q - zero) * scale + offset of those rows."""
    packed_TGB = matrix.q_NGB[rows_T]
    if matrix.bits == 4:
        q_TGB = np.empty((*packed_TGB.shape[:2], BLOCK), np.float32)
        q_TGB[..., 0::2] = packed_TGB & 0x0F
        q_TGB[..., 1::2] = packed_TGB >> 4
    else:
        q_TGB = packed_TGB.astype(np.float32)
    q_TGB -= 2 ** (matrix.bits - 1)
    q_TGB *= matrix.scales_NG[rows_T][..., None]
    if matrix.offsets_NG is not None:
        q_TGB += matrix.offsets_NG[rows_T][..., None]
    return q_TGB.reshape(len(rows_T), -1)
