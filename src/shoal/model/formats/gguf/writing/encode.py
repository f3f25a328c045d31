"""A matrix as bytes of a GGUF kind: the narrowest kind that holds its values exactly, or the one that was asked for.

Shapes: N rows, K columns, G = K / BLOCK blocks a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np

from shoal.arrays import F32, I64, U8
from shoal.errors import ConfigError, ModelLoadError
from shoal.model.formats.gguf.blocks import FLOATS, WIDE
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.quantization import dequantize, quantize_rows, unpack_nibbles
from shoal.model.weights import BLOCK, BlockWeight, RawRows, WeightSource, own_precision

GgufPrecision = Literal["auto", "fp32", "fp16", "bf16", "int8", "int4"]
"""Precision of a written file; with `auto`, every weight keeps its value."""
_DENSE: dict[GgufPrecision, Kind] = {"fp32": Kind.F32, "fp16": Kind.F16, "bf16": Kind.BF16}


def parse_gguf_precision(text: str) -> GgufPrecision:
    """The precision that a user's text names. Raises ConfigError."""
    if text not in get_args(GgufPrecision):
        raise ConfigError(f"unknown precision {text!r}: use one of {', '.join(get_args(GgufPrecision))}")
    return cast(GgufPrecision, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixPart:
    """One matrix of a source, and the order in which its rows and columns are written."""

    name: str
    order_N: I64 | None
    """Order of rows; None: as in the source."""
    columns_K: I64 | None = None
    """Order of columns; None: as in the source."""

    def ordered(self, rows: np.ndarray) -> np.ndarray:
        """Rows of this matrix in the order of the file."""
        return rows if self.order_N is None else rows[self.order_N]


def choose_kind(source: WeightSource, parts: Sequence[MatrixPart], precision: GgufPrecision) -> Kind:
    """The kind in which a tensor made of these matrices is written. Raises ModelLoadError."""
    if own_precision(parts[0].name, "auto") == "fp32":
        return Kind.F32
    if precision in _DENSE:
        return _DENSE[precision]
    found = [_exact_kinds(source, part) for part in parts]
    exact = next(kind for kind in found[0] if all(kind in kinds for kinds in found))
    is_whole = source.packing(parts[0].name, "auto").shape[1] % BLOCK == 0
    is_vocabulary = parts[0].name in ("embedding", "head")
    match precision:
        case "int8":
            return Kind.Q8_0 if exact in FLOATS and is_whole else exact
        case "int4" if is_whole and is_vocabulary:
            return Kind.Q8_0 if exact in FLOATS else exact
        case "int4" if is_whole:
            return Kind.Q4_1 if exact in FLOATS or exact in WIDE - {Kind.Q5_0, Kind.Q5_1} else exact
        case _:
            return exact


def encode(source: WeightSource, part: MatrixPart, kind: Kind) -> U8:
    """The bytes [N, row_bytes] of a matrix in this kind. Raises ModelLoadError."""
    kept = None if part.columns_K is not None else source.raw_rows(part.name, "auto")
    if isinstance(kept, RawRows) and kept.kind == kind:
        rows_NB = kept.rows_NB if kept.order_N is None else kept.rows_NB[kept.order_N]
        return np.ascontiguousarray(part.ordered(rows_NB))
    if isinstance(kept, BlockWeight) and kind in _exact_block_kinds(kept):
        return part.ordered(_blocks(kept, kind))
    values_NK = dequantize(source.matrix(part.name, "fp32"))
    if part.columns_K is not None:
        values_NK = values_NK[:, part.columns_K]
    return part.ordered(_quantized(part.name, values_NK, kind))


def _exact_kinds(source: WeightSource, part: MatrixPart) -> Sequence[Kind]:
    """Kinds that hold a matrix exactly. Columns in another order do not keep the source's blocks."""
    kept = None if part.columns_K is not None else source.raw_rows(part.name, "auto")
    if isinstance(kept, RawRows):
        return (Kind(kept.kind), Kind.F32)
    found = _exact_block_kinds(kept) if isinstance(kept, BlockWeight) else []
    return [*found, *_exact_floats(dequantize(source.matrix(part.name, "fp32")))]


def _exact_floats(values_NK: F32) -> list[Kind]:
    with np.errstate(over="ignore"):
        halves = np.array_equal(values_NK.astype(np.float16).astype(np.float32), values_NK)
    found = [Kind.F16] if halves else []
    return [*found, *([Kind.BF16] if not np.any(values_NK.view(np.uint32) & 0xFFFF) else []), Kind.F32]


def _exact_block_kinds(weight: BlockWeight) -> list[Kind]:
    """GGUF's scales are fp16. Codes minus their zero points fit 5 signed bits."""
    if not _are_halves(weight.scales_NG):
        return []
    if weight.offsets_NG is None:
        return [Kind.Q4_0, Kind.Q8_0] if weight.bits == 4 else [Kind.Q8_0]
    if weight.bits == 8:
        return []
    minima_NG = weight.offsets_NG - 8 * weight.scales_NG
    return [*([Kind.Q4_1] if _are_halves(minima_NG) else []), Kind.Q5_0, Kind.Q8_0]


def _are_halves(values: F32) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(values.astype(np.float16).astype(np.float32), values)


def _blocks(weight: BlockWeight, kind: Kind) -> U8:
    """The blocks of 32 of one kind: scale, minimum, fifth bits and codes, if the kind has them.

    Source of the layouts: GGML, ggml-common.h (block_q4_0, block_q4_1, block_q5_0, block_q8_0).
    """
    codes_NGB = (unpack_nibbles(weight.q_NGB) if weight.bits == 4 else weight.q_NGB).astype(np.int32)
    middle = 8 if weight.bits == 4 else 128
    if kind == Kind.Q4_1:
        assert weight.offsets_NG is not None
        minima_NG = weight.offsets_NG - 8 * weight.scales_NG
        return _joined(_halves(weight.scales_NG), _halves(minima_NG), _halved_nibbles(codes_NGB))
    levels_NGB = codes_NGB - middle
    if weight.offsets_NG is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            below_NG = np.where(weight.scales_NG == 0, 0, np.rint(weight.offsets_NG / weight.scales_NG))
        levels_NGB += below_NG.astype(np.int32)[..., None]
    scales = _halves(weight.scales_NG)
    match kind:
        case Kind.Q4_0:
            return _joined(scales, _halved_nibbles(levels_NGB + 8))
        case Kind.Q5_0:
            codes_NGB = levels_NGB + 16
            fifth = np.packbits((codes_NGB >> 4).astype(np.uint8), axis=-1, bitorder="little")
            return _joined(scales, fifth, _halved_nibbles(codes_NGB & 15))
        case _:
            return _joined(scales, levels_NGB.astype(np.int8).view(np.uint8))


def _halves(values_NG: F32) -> U8:
    return values_NG.astype("<f2")[..., None].view(np.uint8)


def _halved_nibbles(codes_NGB: np.ndarray) -> U8:
    """Codes of a block as nibbles: the first half in the low ones, the second half in the high ones."""
    codes = codes_NGB.astype(np.uint8)
    return codes[..., : BLOCK // 2] | (codes[..., BLOCK // 2 :] << np.uint8(4))


def _joined(*fields: U8) -> U8:
    joined: U8 = np.concatenate(fields, axis=-1)
    return joined.reshape(len(joined), -1)


def _quantized(name: str, values_NK: F32, kind: Kind) -> U8:
    match kind:
        case Kind.F32:
            return np.ascontiguousarray(values_NK).view(np.uint8)
        case Kind.F16:
            with np.errstate(over="ignore"):
                halves = values_NK.astype("<f2")
            if not np.isfinite(halves).all():
                raise ModelLoadError(f"{name} has a weight that fp16 cannot hold; use bf16 or fp32")
            return np.ascontiguousarray(halves).view(np.uint8)
        case Kind.Q4_1:
            weight = quantize_rows(values_NK, 4)
            assert isinstance(weight, BlockWeight)
            return _blocks(weight, kind)
        case Kind.BF16 | Kind.Q8_0:
            from gguf import GGMLQuantizationType, quants  # imported only here, because of its memory

            return np.ascontiguousarray(quants.quantize(values_NK, GGMLQuantizationType(kind))).view(np.uint8)
        case _:
            raise ModelLoadError(f"{name} cannot be written as {kind.name}")
