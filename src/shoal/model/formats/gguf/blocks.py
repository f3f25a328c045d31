"""GGUF tensors' rows as dense values or blocks: which form each kind takes, and how blocks are repacked exactly.

Shapes: N rows, K columns, G = K / BLOCK blocks a row, S = K / 256 super-blocks a row.
Source of the block layouts: GGML, ggml-common.h (block_q4_0, block_q4_1, block_q8_0, block_q4_K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from shoal.arrays import F32, U8
from shoal.model.formats.gguf.grids import block_grid, halves, in_blocks, six_bit_fields
from shoal.model.formats.gguf.kinds import BLOCK_SIZES, Kind
from shoal.model.formats.quantization import pack_nibbles, quantize_rows, widen
from shoal.model.weights import (
    BLOCK,
    BlockWeight,
    DenseWeight,
    Precision,
    Range,
    Weight,
    concatenate_rows,
    cut_columns,
)

Form = Literal["dense", "own", "widened", "int8", "int4"]
"""`dense`: fp32. `own`: the file's own blocks, repacked exactly. `widened`: its 4-bit blocks as 8-bit ones, also exact.
`int8`, `int4`: blocks quantized again from the dequantized values."""

OWN_BITS = {
    **dict.fromkeys((Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.TQ1_0, Kind.TQ2_0), 4),
    **dict.fromkeys((Kind.Q8_0, Kind.Q5_0, Kind.Q5_1, Kind.Q5_K, Kind.IQ4_NL, Kind.IQ4_XS, Kind.MXFP4), 8),
    **dict.fromkeys((Kind.IQ3_XXS, Kind.IQ3_S, Kind.IQ2_XXS, Kind.IQ1_S), 8),
}
"""Kinds whose blocks of 32 weights are whole multiples of one number, except for an offset, with the bits that a
BlockWeight needs to hold them exactly. In the other kinds a scale covers 16 weights or fewer."""
OWN_OFFSETS = {Kind.Q4_1, Kind.Q4_K, Kind.Q5_1, Kind.Q5_K}
FLOATS = {Kind.F32, Kind.F16, Kind.BF16}
WIDE = {Kind.Q5_0, Kind.Q5_1, Kind.Q5_K, Kind.Q6_K, Kind.Q8_0}
"""Kinds with more than 4 bits."""
NARROW = {Kind.Q2_K, Kind.Q3_K, Kind.IQ2_S, Kind.IQ2_XS, Kind.IQ1_M}
"""Kinds with 4 bits or fewer, but not exactly 32 weights to a scale. 4-bit blocks of 32 would cost up to a sixth of the
perplexity (docs/decisions/0016); 8-bit blocks lose nothing measurable."""
SUPPORTED = {*OWN_BITS, *FLOATS, *WIDE, *NARROW}
CHUNK_WEIGHTS = 1 << 20
"""Weights that are widened to fp32 at once on their way to blocks. This bounds the temporaries to a few times 4 MB."""


def choose_form(kind: Kind, precision: Precision, *, num_columns: int, is_vocabulary: bool) -> Form:
    """The form of a tensor. A 4-bit embedding or head is held in 8 bits if the file has it in more than 4.

    Every token reads the vocabulary matrices, so most files keep them wider than the rest.
    """
    if num_columns % BLOCK or precision == "fp32":
        return "dense"
    own_bits = OWN_BITS.get(kind)
    match precision:
        case "auto":
            return "own" if own_bits else "dense" if kind in FLOATS else "int8"
        case "int8":
            return "own" if own_bits == 8 else "widened" if own_bits else "int8"
        case "int4":
            if is_vocabulary and (kind in FLOATS or kind in WIDE):
                return "own" if own_bits else "int8"
            return "own" if own_bits == 4 else "int4"


def form_bytes(form: Form, kind: Kind, num_rows: int, num_columns: int) -> int:
    """The `num_bytes` of the weight that `to_weight` would return."""
    num_weights = num_rows * num_columns
    match form:
        case "dense":
            return num_weights * 4
        case "own":
            bits, arrays = OWN_BITS[kind], 2 if kind in OWN_OFFSETS else 1
        case "widened":
            bits, arrays = 8, 2 if kind in OWN_OFFSETS else 1
        case "int8":
            bits, arrays = 8, 1
        case "int4":
            bits, arrays = 4, 2
    return num_weights * bits // 8 + num_weights // BLOCK * 4 * arrays


def check_columns(form: Form, columns: Range) -> None:
    """Raises ValueError if columns of a matrix in this form would cut a quantization block."""
    if form != "dense" and (columns[0] % BLOCK or columns[1] % BLOCK):
        raise ValueError(f"columns [{columns[0]}, {columns[1]}) cut a quantization block of {BLOCK}")


def columns_to_weight(rows: U8, kind: Kind, form: Form, columns: Range) -> Weight:
    """Some columns of rows of raw bytes, equal to those of `to_weight`; only the blocks that contain them are read.

    Raises:
        ValueError: the columns cut a quantization block.
    """
    check_columns(form, columns)
    block_weights, block_bytes = BLOCK_SIZES[kind]
    first, last = columns[0] // block_weights, -(-columns[1] // block_weights)
    weight = to_weight(rows[:, first * block_bytes : last * block_bytes], kind, form)
    return cut_columns(weight, columns[0] - first * block_weights, columns[1] - first * block_weights)


def to_weight(rows: U8, kind: Kind, form: Form) -> Weight:
    """Rows of raw bytes [N, row_bytes] of a supported kind as a weight in this form."""
    match form:
        case "dense":
            return DenseWeight(values_NK=to_dense(rows, kind))
        case "own":
            return _own_blocks(rows, kind)
        case "widened":
            return widen(_own_blocks(rows, kind))
        case "int8":
            return _by_chunks(rows, kind, lambda chunk: quantize_rows(to_dense(chunk, kind), 8))
        case "int4":
            return _by_chunks(rows, kind, lambda chunk: quantize_rows(to_dense(chunk, kind), 4))


def _by_chunks(rows: U8, kind: Kind, convert: Callable[[U8], Weight]) -> Weight:
    """Convert rows some at a time."""
    block_weights, block_bytes = BLOCK_SIZES[kind]
    rows_at_once = max(1, CHUNK_WEIGHTS // max(1, rows.shape[1] // block_bytes * block_weights))
    starts = range(0, max(1, len(rows)), rows_at_once)
    weight = concatenate_rows([convert(rows[start : start + rows_at_once]) for start in starts])
    assert weight is not None
    return weight


def to_dense(rows: U8, kind: Kind) -> F32:
    """Rows of raw bytes as fp32 [N, K]; a view if the file holds fp32."""
    if rows.size == 0:
        block_weights, block_bytes = BLOCK_SIZES[kind]
        return np.zeros((len(rows), rows.shape[1] // block_bytes * block_weights), np.float32)
    match kind:
        case Kind.F32:
            return rows.view(np.float32)
        case Kind.F16:
            return rows.view(np.float16).astype(np.float32)
        case Kind.BF16:
            return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        case _:
            from gguf import GGMLQuantizationType, quants  # imported only here, because of its memory

            return quants.dequantize(rows, GGMLQuantizationType(kind))


def _own_blocks(rows: U8, kind: Kind) -> BlockWeight:
    match kind:
        case Kind.Q8_0:
            return _from_q8_0(rows)
        case Kind.Q4_0:
            blocks = in_blocks(rows, 18)
            return BlockWeight(bits=4, q_NGB=_interleave(blocks[..., 2:]), scales_NG=halves(blocks, 0))
        case Kind.Q4_1:
            return _from_q4_1(rows)
        case Kind.Q4_K:
            return _from_q4_k(rows)
        case _:
            weight = _by_chunks(rows, kind, lambda chunk: _from_grid(chunk, kind))
            assert isinstance(weight, BlockWeight)
            return weight


def _from_grid(rows: U8, kind: Kind) -> BlockWeight:
    """A kind's whole numbers, by which its blocks' scales are multiplied, computed from the dequantized values. So only
    the scales need a decoder of their own (`block_grid`)."""
    scales_NG, offsets_NG = block_grid(rows, kind)
    values_NGB = to_dense(rows, kind).reshape(*scales_NG.shape, BLOCK)
    if offsets_NG is not None:
        values_NGB = values_NGB - offsets_NG[..., None]
    middle = 1 << (OWN_BITS[kind] - 1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # a damaged file may hold any scale
        q_NGB = np.rint(np.where(scales_NG[..., None] == 0, 0, values_NGB / scales_NG[..., None])) + middle
    q_NGB = np.nan_to_num(np.clip(q_NGB, 0, 2 * middle - 1)).astype(np.uint8)
    packed = pack_nibbles(q_NGB) if middle == 8 else q_NGB
    return BlockWeight(bits=8 if middle == 128 else 4, q_NGB=packed, scales_NG=scales_NG, offsets_NG=offsets_NG)


def _from_q8_0(rows: U8) -> BlockWeight:
    """Q8_0: 34 bytes a block, a half-precision scale and 32 signed bytes."""
    blocks = in_blocks(rows, 34)
    return BlockWeight(bits=8, q_NGB=blocks[..., 2:] ^ np.uint8(0x80), scales_NG=halves(blocks, 0))


def _from_q4_1(rows: U8) -> BlockWeight:
    """Q4_1: 20 bytes a block, half-precision scale and minimum, then nibbles; w = q * scale + minimum."""
    blocks = in_blocks(rows, 20)
    scales_NG, minima_NG = halves(blocks, 0), halves(blocks, 2)
    offsets_NG = minima_NG + 8 * scales_NG
    return BlockWeight(bits=4, q_NGB=_interleave(blocks[..., 4:]), scales_NG=scales_NG, offsets_NG=offsets_NG)


def _from_q4_k(rows: U8) -> BlockWeight:
    """Q4_K: 144 bytes a super-block of 256, two half-precision factors, 8 scales and minima of 6 bits each, then
    nibbles.

    Every 32 bytes of nibbles hold two sub-blocks of 32 weights: the low nibbles the first, the high nibbles the second.
    """
    blocks = in_blocks(rows, 144)
    scales_NS8, minima_NS8 = six_bit_fields(blocks[..., 4:16])
    num_rows, num_super_blocks = blocks.shape[:2]
    grid = (num_rows, num_super_blocks * 8)
    scales_NG = np.multiply(halves(blocks, 0)[..., None], scales_NS8).reshape(grid)
    minima_NG = np.multiply(halves(blocks, 2)[..., None], minima_NS8).reshape(grid)
    nibbles = _interleave(blocks[..., 16:].reshape(num_rows, num_super_blocks * 4, 32))
    q_NGB = nibbles.reshape(*grid, BLOCK // 2)
    return BlockWeight(bits=4, q_NGB=q_NGB, scales_NG=scales_NG, offsets_NG=8 * scales_NG - minima_NG)


def _interleave(nibbles: U8) -> U8:
    """Reorder GGML's nibbles (all low ones, then all high ones) to consecutive pairs, for blocks of any length.

    Two neighboring bytes are one 16-bit word, whose low nibbles make one output byte and whose high nibbles another.
    """
    words = np.ascontiguousarray(nibbles).view("<u2")
    low = (words & 0x0F) | ((words >> 4) & 0xF0)
    high = ((words >> 4) & 0x0F) | ((words >> 8) & 0xF0)
    return np.concatenate([low.astype(np.uint8), high.astype(np.uint8)], axis=-1)
