"""Scales and offsets of GGUF blocks whose 32 weights are whole multiples of one number.

Shapes: N rows, G = K / BLOCK blocks a row, S = K / 256 super-blocks a row.
Source of the layouts: GGML, ggml-common.h (block_q5_0, block_iq4_xs, ...) and ggml-quants.c (dequantize_row_*).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, U8
from shoal.model.formats.gguf.kinds import BLOCK_SIZES, Kind
from shoal.model.weights import BLOCK

_HALF_AT = {Kind.TQ1_0: 52, Kind.TQ2_0: 64}
"""Byte at which a block has its half-precision scale, if not at its start."""


def block_grid(rows: U8, kind: Kind) -> tuple[F32, F32 | None]:
    """Scales [N, G] and offsets [N, G] of rows of raw bytes; None if all offsets are 0."""
    block_weights, block_bytes = BLOCK_SIZES[kind]
    blocks = in_blocks(rows, block_bytes)
    if kind == Kind.MXFP4:  # values of E2M1 are multiples of 1/2
        return np.exp2(blocks[..., 0].astype(np.float32) - 128), None
    d = halves(blocks, _HALF_AT.get(kind, 0))[..., None]
    grid = (len(rows), blocks.shape[1] * (block_weights // BLOCK))

    def spread(scales: npt.NDArray[np.floating]) -> F32:
        return np.broadcast_to(scales, (*blocks.shape[:2], block_weights // BLOCK)).reshape(grid).astype(np.float32)

    match kind:
        case Kind.Q5_0 | Kind.IQ4_NL | Kind.TQ1_0 | Kind.TQ2_0:
            return spread(d), None
        case Kind.Q5_1:
            return spread(d), spread(halves(blocks, 2)[..., None])
        case Kind.Q5_K:
            scales, minima = six_bit_fields(blocks[..., 4:16])
            return spread(d * scales), spread(-halves(blocks, 2)[..., None] * minima)
        case Kind.IQ4_XS:
            low = np.stack((blocks[..., 4:8] & 0x0F, blocks[..., 4:8] >> 4), axis=-1).reshape(*blocks.shape[:2], 8)
            high = (_words(blocks[..., 2:4], "<u2") >> np.arange(0, 16, 2, dtype=np.uint16)) & 0x03
            return spread(d * ((low | (high << 4)).astype(np.float32) - 32)), None
        case Kind.IQ3_XXS:
            return spread(d * (_top_bits(blocks[..., 66:98]) + 0.5) * np.float32(0.5)), None
        case Kind.IQ2_XXS:
            return spread(d * (_top_bits(blocks[..., 2:66])[..., 1::2] + 0.5) * np.float32(0.25)), None
        case Kind.IQ3_S:
            nibbles = np.stack((blocks[..., 106:110] & 0x0F, blocks[..., 106:110] >> 4), axis=-1)
            return spread(d * (1 + 2 * nibbles.reshape(*blocks.shape[:2], 8).astype(np.float32))), None
        case Kind.IQ1_S:
            steps = (_words(blocks[..., 34:50], "<u2") >> 12) & 0x07
            return spread(d * (2 * steps.astype(np.float32) + 1) / 8), None
        case _:
            raise AssertionError(f"{kind.name} has no exact block form")


def _words(packed: U8, word: str) -> npt.NDArray[np.unsignedinteger]:
    return np.ascontiguousarray(packed).view(word)


def _top_bits(packed: U8) -> F32:
    """The highest 4 bits of every 32-bit word."""
    return (_words(packed, "<u4") >> 28).astype(np.float32)


def in_blocks(rows: U8, block_bytes: int) -> U8:
    """Rows as blocks [N, G, block_bytes]: a view, also of rows that are cut from longer ones, or that are empty."""
    return rows.reshape(len(rows), rows.shape[1] // block_bytes, block_bytes)


def six_bit_fields(packed: U8) -> tuple[F32, F32]:
    """8 scales and 8 minima from 12 bytes: 0-3 and 4-7 hold the first four of each in their low 6 bits; 8-11 hold the
    low 4 bits of the last four (scales low, minima high), whose top 2 bits sit in the top of bytes 0-3 and 4-7."""
    first, second, third = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | ((first >> 6) << 4)], axis=-1)
    minima = np.concatenate([second & 0x3F, (third >> 4) | ((second >> 6) << 4)], axis=-1)
    return scales.astype(np.float32), minima.astype(np.float32)


def halves(blocks: U8, start: int) -> F32:
    """The half-precision number at byte `start` of every block."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0].astype(np.float32)
