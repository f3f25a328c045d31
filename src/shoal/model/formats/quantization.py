"""Block quantization of fp32 rows to blocks of BLOCK weights with one scale (and offset), and back.

Shapes: N rows, K columns, G = K / BLOCK blocks a row, B bytes a block.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from shoal.arrays import F32, U8
from shoal.model.weights import BLOCK, BlockWeight, DenseWeight, Weight

RANGE_FACTORS = (1.0, 0.92)
"""Fractions of a block's full range that the first 4-bit grid covers: clipping the extremes makes the other steps
finer. Source: tests/model/formats/test_quantization.py compares the error with the plain full-range grid."""
REFINEMENTS = 2
"""Rounds of rounding and fitting for each of these grids."""
CHUNK_WEIGHTS = 1 << 18
"""Weights that are quantized at once, so that the temporaries (a few times 1 MB) stay in the processor's cache."""


def quantize_rows(values_NK: F32, bits: Literal[4, 8]) -> Weight:
    """Quantize fp32 rows; the result is a DenseWeight if K is not a multiple of BLOCK.

    8 bits are symmetric (scale = largest magnitude / 127); 4 bits have a scale and an offset fitted by least squares.
    """
    num_rows, num_columns = values_NK.shape
    if num_columns % BLOCK:
        return DenseWeight(values_NK=np.ascontiguousarray(values_NK))
    rows_at_once = max(1, CHUNK_WEIGHTS // max(1, num_columns))
    quantize = _quantize_8bit if bits == 8 else _quantize_4bit
    parts = [quantize(values_NK[row : row + rows_at_once]) for row in range(0, max(1, num_rows), rows_at_once)]
    q, scales, offsets = (np.concatenate(column) for column in zip(*parts, strict=True))
    return BlockWeight(bits=bits, q_NGB=q, scales_NG=scales, offsets_NG=offsets if bits == 4 else None)


def dequantize(weight: Weight) -> F32:
    """The fp32 values [N, K] that a weight stands for."""
    if isinstance(weight, DenseWeight):
        return weight.values_NK
    middle = 1 << (weight.bits - 1)
    q_NGB = unpack_nibbles(weight.q_NGB) if weight.bits == 4 else weight.q_NGB
    values_NGB = (q_NGB.astype(np.float32) - middle) * weight.scales_NG[..., None]
    if weight.offsets_NG is not None:
        values_NGB += weight.offsets_NG[..., None]
    return values_NGB.reshape(weight.shape)


def widen(weight: BlockWeight) -> BlockWeight:
    """The same values as 8-bit blocks: exact, since a 4-bit block's 16 levels are 16 of the 256."""
    if weight.bits == 8:
        return weight
    q_NGB = unpack_nibbles(weight.q_NGB) + np.uint8(128 - 8)
    return BlockWeight(bits=8, q_NGB=q_NGB, scales_NG=weight.scales_NG, offsets_NG=weight.offsets_NG)


def pack_nibbles(q: U8) -> U8:
    """Pack numbers 0..15 along the last axis, two to a byte: even positions in the low nibble."""
    return q[..., 0::2] | (q[..., 1::2] << np.uint8(4))


def unpack_nibbles(packed: U8) -> U8:
    """The inverse of `pack_nibbles`."""
    pairs = np.stack((packed & np.uint8(0x0F), packed >> np.uint8(4)), axis=-1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def _in_blocks(values_NK: F32) -> F32:
    return values_NK.reshape(len(values_NK), values_NK.shape[1] // BLOCK, BLOCK)


def _quantize_8bit(values_NK: F32) -> tuple[U8, F32, F32]:
    blocks_NGB = _in_blocks(values_NK)
    scales_NG = np.abs(blocks_NGB).max(axis=-1) / np.float32(127)
    q_NGB = np.rint(blocks_NGB * _reciprocal(scales_NG)[..., None]) + 128
    return q_NGB.astype(np.uint8), scales_NG, np.zeros_like(scales_NG)


def _quantize_4bit(values_NK: F32) -> tuple[U8, F32, F32]:
    """The best of several starting grids, each improved by fitting scale and minimum to its own roundings."""
    blocks_NGB = _in_blocks(values_NK)
    low_NG, high_NG = blocks_NGB.min(axis=-1), blocks_NGB.max(axis=-1)
    q_NGB, scales_NG, minima_NG, gain_NG = _refine(blocks_NGB, (high_NG - low_NG) / 15, low_NG)
    for factor in RANGE_FACTORS[1:]:
        cut_NG = (high_NG - low_NG) * np.float32((1 - factor) / 2)
        other = _refine(blocks_NGB, (high_NG - low_NG) * np.float32(factor / 15), low_NG + cut_NG)
        better_NG = other[3] > gain_NG
        q_NGB[better_NG] = other[0][better_NG]
        for kept_NG, other_NG in zip((scales_NG, minima_NG, gain_NG), other[1:], strict=True):
            kept_NG[better_NG] = other_NG[better_NG]
    return pack_nibbles(q_NGB.astype(np.uint8)), scales_NG, minima_NG + 8 * scales_NG


def _refine(blocks_NGB: F32, scales_NG: F32, minima_NG: F32) -> tuple[F32, F32, F32, F32]:
    """Round to a grid and fit the grid to the rounded codes, REFINEMENTS times; see `_fit` for the last item of the
    result."""
    q_NGB = blocks_NGB
    gain_NG = scales_NG
    for _ in range(REFINEMENTS):
        q_NGB = (blocks_NGB - minima_NG[..., None]) * _reciprocal(scales_NG)[..., None]
        np.clip(np.rint(q_NGB, out=q_NGB), 0, 15, out=q_NGB)
        scales_NG, minima_NG, gain_NG = _fit(blocks_NGB, q_NGB)
    return q_NGB, scales_NG, minima_NG, gain_NG


def _fit(blocks_NGB: F32, q_NGB: F32) -> tuple[F32, F32, F32]:
    """Least-squares scale and minimum for w = q * scale + minimum, and how much variance of w they explain.

    Source: simple linear regression; slope = cov(q, w) / var(q), explained variance = cov(q, w)**2 / var(q).
    """
    q_mean_NG, w_mean_NG = q_NGB.mean(axis=-1), blocks_NGB.mean(axis=-1)
    q_NGB = q_NGB - q_mean_NG[..., None]
    covariance_NG = np.einsum("ngb,ngb->ng", q_NGB, blocks_NGB) / np.float32(BLOCK)
    inverse_variance_NG = _reciprocal(np.einsum("ngb,ngb->ng", q_NGB, q_NGB) / np.float32(BLOCK))
    scales_NG = covariance_NG * inverse_variance_NG
    return scales_NG, w_mean_NG - scales_NG * q_mean_NG, covariance_NG * scales_NG


def _reciprocal(values: F32) -> F32:
    """1 / values, and 0 where values are 0."""
    return np.divide(1, values, out=np.zeros_like(values), where=values != 0)
