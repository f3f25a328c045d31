"""The rows of a GGUF tensor as dense values or blocks: which format each kind becomes, and the exact repacking.

Shapes: N rows, K columns, G = K / BLOCK blocks a row, S = K / 256 super-blocks a row.
Source of the block layouts: GGML, ggml-common.h (block_q4_0, block_q4_1, block_q8_0, block_q4_K).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind

from shoal.model.formats.quantization import quantize_rows, widen
from shoal.model.weights import BLOCK, F32, U8, BlockWeight, DenseWeight, Precision, Range, Weight, cut_columns

Form = Literal["dense", "own", "widened", "int8", "int4"]
"""fp32; the file's own blocks, repacked exactly; its own 4-bit blocks as 8-bit ones, also exact; 8-bit or 4-bit blocks
re-quantized from the dequantized values"""

OWN_BITS = {Kind.Q4_0: 4, Kind.Q4_1: 4, Kind.Q4_K: 4, Kind.Q8_0: 8}
OWN_OFFSETS = {Kind.Q4_1, Kind.Q4_K}
FLOATS = {Kind.F32, Kind.F16, Kind.BF16}
WIDE = {Kind.Q5_0, Kind.Q5_1, Kind.Q5_K, Kind.Q6_K}
"""more than 4 bits: 8-bit blocks keep what they hold"""
NARROW = {
    *(Kind.Q2_K, Kind.Q3_K, Kind.IQ4_NL, Kind.IQ4_XS, Kind.IQ3_S, Kind.IQ3_XXS, Kind.IQ2_S, Kind.IQ2_XS),
    *(Kind.IQ2_XXS, Kind.IQ1_S, Kind.IQ1_M, Kind.TQ1_0, Kind.TQ2_0),
}
SUPPORTED = {*OWN_BITS, *FLOATS, *WIDE, *NARROW}


def choose_form(kind: Kind, precision: Precision, *, num_columns: int, is_vocabulary: bool) -> Form:
    """What a tensor becomes. A 4-bit embedding or head stays at 8 bits where the file has it above 4 bits.

    The vocabulary matrices are read by every token, and most files keep them wider than the rest for that reason.
    """
    if num_columns % BLOCK or precision == "fp32":
        return "dense"
    match precision:
        case "auto":
            return "own" if kind in OWN_BITS else "dense" if kind in FLOATS else "int8" if kind in WIDE else "int4"
        case "int8":
            return "own" if kind == Kind.Q8_0 else "widened" if kind in OWN_BITS else "int8"
        case "int4":
            above_4_bits = kind in FLOATS or kind in WIDE or kind == Kind.Q8_0
            if is_vocabulary and above_4_bits:
                return "own" if kind == Kind.Q8_0 else "int8"
            return "own" if OWN_BITS.get(kind) == 4 else "int4"


def form_bytes(form: Form, kind: Kind, num_rows: int, num_columns: int) -> int:
    """`num_bytes` of the weight that `to_weight` would return."""
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
    """Raises ValueError where columns of a matrix that takes this form would cut a quantization block."""
    if form != "dense" and (columns[0] % BLOCK or columns[1] % BLOCK):
        raise ValueError(f"columns [{columns[0]}, {columns[1]}) cut a quantization block of {BLOCK}")


def columns_to_weight(rows: U8, kind: Kind, form: Form, columns: Range) -> Weight:
    """Some columns of rows of raw bytes, exactly as `to_weight` has them; only the blocks they lie in are read.

    Raises:
        ValueError: the columns cut a quantization block.
    """
    check_columns(form, columns)
    block_weights, block_bytes = GGML_QUANT_SIZES[kind]
    first, last = columns[0] // block_weights, -(-columns[1] // block_weights)
    weight = to_weight(rows[:, first * block_bytes : last * block_bytes], kind, form)
    return cut_columns(weight, columns[0] - first * block_weights, columns[1] - first * block_weights)


def to_weight(rows: U8, kind: Kind, form: Form) -> Weight:
    """Rows of raw bytes [N, row_bytes] of a supported kind as a weight of that form."""
    match form:
        case "dense":
            return DenseWeight(values_NK=to_dense(rows, kind))
        case "own":
            return _own_blocks(rows, kind)
        case "widened":
            return widen(_own_blocks(rows, kind))
        case "int8":
            return quantize_rows(to_dense(rows, kind), 8)
        case "int4":
            return quantize_rows(to_dense(rows, kind), 4)


def to_dense(rows: U8, kind: Kind) -> F32:
    """Rows of raw bytes as fp32 [N, K]; a view where the file holds fp32."""
    from gguf.quants import dequantize

    if rows.size == 0:  # which the package does not expect
        block_weights, block_bytes = GGML_QUANT_SIZES[kind]
        return np.zeros((len(rows), rows.shape[1] // block_bytes * block_weights), np.float32)
    return dequantize(rows, kind)


def _own_blocks(rows: U8, kind: Kind) -> BlockWeight:
    match kind:
        case Kind.Q8_0:
            return _from_q8_0(rows)
        case Kind.Q4_0:
            blocks = _in_blocks(rows, 18)
            return BlockWeight(bits=4, q_NGB=_interleave(blocks[..., 2:]), scales_NG=_halves(blocks, 0))
        case Kind.Q4_1:
            return _from_q4_1(rows)
        case Kind.Q4_K:
            return _from_q4_k(rows)
        case _:
            raise AssertionError(f"{kind.name} has no exact block form")


def _from_q8_0(rows: U8) -> BlockWeight:
    """34 bytes a block: a half-precision scale and 32 signed bytes."""
    blocks = _in_blocks(rows, 34)
    return BlockWeight(bits=8, q_NGB=blocks[..., 2:] ^ np.uint8(0x80), scales_NG=_halves(blocks, 0))


def _from_q4_1(rows: U8) -> BlockWeight:
    """20 bytes a block: half-precision scale and minimum, then nibbles; w = q * scale + minimum."""
    blocks = _in_blocks(rows, 20)
    scales_NG, minima_NG = _halves(blocks, 0), _halves(blocks, 2)
    offsets_NG = minima_NG + 8 * scales_NG
    return BlockWeight(bits=4, q_NGB=_interleave(blocks[..., 4:]), scales_NG=scales_NG, offsets_NG=offsets_NG)


def _from_q4_k(rows: U8) -> BlockWeight:
    """144 bytes a super-block of 256: two half-precision factors, 8 scales and minima of 6 bits each, then nibbles.

    Every 32 bytes of nibbles hold two sub-blocks of 32 weights: the low nibbles are one, the high nibbles the next.
    """
    blocks = _in_blocks(rows, 144)
    scales_NS8, minima_NS8 = _six_bit_fields(blocks[..., 4:16])
    num_rows, num_super_blocks = blocks.shape[:2]
    grid = (num_rows, num_super_blocks * 8)
    scales_NG = np.multiply(_halves(blocks, 0)[..., None], scales_NS8).reshape(grid)
    minima_NG = np.multiply(_halves(blocks, 2)[..., None], minima_NS8).reshape(grid)
    nibbles = _interleave(blocks[..., 16:].reshape(num_rows, num_super_blocks * 4, 32))
    q_NGB = nibbles.reshape(*grid, BLOCK // 2)
    return BlockWeight(bits=4, q_NGB=q_NGB, scales_NG=scales_NG, offsets_NG=8 * scales_NG - minima_NG)


def _in_blocks(rows: U8, block_bytes: int) -> U8:
    """[N, G, block_bytes]: a view, also of rows that are cut out of longer ones, and of none."""
    return rows.reshape(len(rows), rows.shape[1] // block_bytes, block_bytes)


def _six_bit_fields(packed: U8) -> tuple[F32, F32]:
    """8 scales and 8 minima from 12 bytes: 0-3 and 4-7 hold the first four of each in their low 6 bits; 8-11 hold the
    low 4 bits of the last four (scales low, minima high), whose top 2 bits sit in the top of bytes 0-3 and 4-7."""
    first, second, third = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | ((first >> 6) << 4)], axis=-1)
    minima = np.concatenate([second & 0x3F, (third >> 4) | ((second >> 6) << 4)], axis=-1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _halves(blocks: U8, start: int) -> F32:
    """The half-precision number at byte `start` of every block."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0].astype(np.float32)


def _interleave(nibbles: U8) -> U8:
    """From GGML's nibble order (all low nibbles, then all high ones) to consecutive pairs, for blocks of any length.

    Two neighboring bytes are one 16-bit word, whose low nibbles make one output byte and whose high nibbles another.
    """
    words = np.ascontiguousarray(nibbles).view("<u2")
    low = (words & 0x0F) | ((words >> 4) & 0xF0)
    high = ((words >> 4) & 0x0F) | ((words >> 8) & 0xF0)
    return np.concatenate([low.astype(np.uint8), high.astype(np.uint8)], axis=-1)
