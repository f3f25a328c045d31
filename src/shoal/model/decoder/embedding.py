"""Token embedding: rows of a matrix that keeps its own format and is widened row by row. Rows of pictures come with
their own vectors.

Shapes: T tokens, D hidden size, G = D / BLOCK, N rows of a picture, K layers after which something is added.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, I32
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import BLOCK, BlockWeight, DenseWeight, Weight, WeightSource
from shoal.protocol.language_messages import PictureRows, Step


class Embedding:
    """Looks up rows. A quantized matrix keeps its quantized size in memory."""

    def __init__(self, matrix: Weight, scale: float, first_id: int = 0, vocab_size: int | None = None) -> None:
        """
        Args:
            matrix: the whole vocabulary's rows or a shard's.
            scale: what rows are multiplied by.
            first_id: token of the matrix's first row.
            vocab_size: tokens of the whole vocabulary; None: none after the matrix's.
        """
        self._matrix = matrix
        self._scale = np.float32(scale)
        self._first_id = first_id
        self._vocab_size = first_id + matrix.shape[0] if vocab_size is None else vocab_size

    def rows(self, token_ids_T: npt.NDArray[np.int32]) -> F32:
        """The embedding of each token, [T, D]. Tokens of other shards have zeros, so that the sum over shards is
        complete.

        Raises:
            ValueError: an id is outside the whole vocabulary.
        """
        if token_ids_T.min() < 0 or token_ids_T.max() >= self._vocab_size:
            raise ValueError(f"a token id is outside the vocabulary of {self._vocab_size}")
        num_rows, width = self._matrix.shape
        if num_rows == self._vocab_size:
            return self._own_rows(token_ids_T)
        own_T = token_ids_T - self._first_id
        is_own_T = (own_T >= 0) & (own_T < num_rows)
        rows_TD = np.zeros((len(own_T), width), np.float32)
        rows_TD[is_own_T] = self._own_rows(own_T[is_own_T])
        return rows_TD

    def _own_rows(self, rows_T: npt.NDArray[np.int32]) -> F32:
        match self._matrix:
            case DenseWeight(values_NK=values):
                rows_TD = values[rows_T]
            case BlockWeight():
                rows_TD = _block_rows(self._matrix, rows_T)
        return rows_TD if self._scale == 1.0 else rows_TD * self._scale


def position_rows(source: WeightSource, num_positions: int) -> F32:
    """The vectors of learned positions, [num_positions, D], in fp32, copied from the file.

    There are at most as many as the model has positions, where its context ends anyway.
    """
    num_rows = min(num_positions, source.config.max_context)
    weight = source.matrix("positions", "fp32", rows=(0, num_rows))
    assert isinstance(weight, DenseWeight)
    return np.array(weight.values_NK)


def _block_rows(matrix: BlockWeight, rows_T: npt.NDArray[np.int32]) -> F32:
    """The fp32 values of these rows: w = (q - zero) * scale + offset."""
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
    return q_TGB.reshape(len(rows_T), matrix.shape[1])


def picture_vectors(rows: PictureRows, decoder: DecoderConfig) -> F32:
    """The vectors of a picture's rows, [N, 1 + K, D]. Raises ValueError if their number does not fit the model."""
    vectors, hidden = np.frombuffer(rows.vectors, "<f4"), decoder.hidden_size
    if not vectors.size or vectors.size % (rows.num_rows * hidden) or decoder.carried_width != hidden:
        raise ValueError(f"{vectors.size} values are no vectors of {rows.num_rows} rows of {hidden} columns")
    return vectors.reshape(rows.num_rows, -1, hidden)


def added_rows(step: Step, decoder: DecoderConfig, first_layer: int, last_layer: int) -> tuple[I32, F32] | None:
    """What pictures add to rows after the first layers of a stage: numbers of rows [N], and values [layers, N, D].

    Raises ValueError as `picture_vectors`.
    """
    numbers: list[I32] = []
    values: list[F32] = []
    for rows in step.pictures:
        vectors_NKD = picture_vectors(rows, decoder)[:, 1 + first_layer : 1 + last_layer]
        if vectors_NKD.shape[1]:
            numbers.append(np.arange(rows.first_row, rows.first_row + rows.num_rows, dtype=np.int32))
            values.append(vectors_NKD)
    if not values:
        return None
    return np.concatenate(numbers), np.ascontiguousarray(np.concatenate(values).transpose(1, 0, 2))
