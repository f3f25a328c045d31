"""A matrix of a file as codes, scales and zero points, whatever its tensors, and its form at each precision.

Shapes: N rows, K columns, P scales a row, G = K / BLOCK blocks a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal.arrays import F32, I32, I64, U8
from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.blocks import Form, check_columns
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.packing import QUANTIZED_BLOCKS
from shoal.model.formats.quantization import pack_nibbles, quantize_rows, widen
from shoal.model.weights import (
    BLOCK,
    BlockKind,
    BlockWeight,
    CodedKind,
    CodedRows,
    DenseWeight,
    Packing,
    Precision,
    Range,
    Weight,
)

MIDDLES = {"int4": 8, "int8": 128}
"""Zero points of symmetric whole numbers."""
NF4_VALUES = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""Values of the codes. Source: QLoRA, arXiv 2305.14314, appendix E, as bitsandbytes rounds them to fp32"""
_BYTES = np.arange(256, dtype=np.uint16)
E4M3_VALUES: F32 = ((_BYTES & 0x80) << 8 | (_BYTES & 0x7F) << 7).view(np.float16).astype(np.float32) * np.float32(256)
"""Values of the codes; the two that are NaN have arbitrary ones. fp16 has the same bits and a bias that is greater by
8."""
_E4M3_NAN = 0x7F
_SCALE_LIMIT = 2.0**118
"""Largest scale with which every code stands for a finite weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedMatrix:
    """The codes, scales and zero points of a matrix: their kind, and functions that read them."""

    where: Path
    """File or folder, for errors."""
    name: str
    """`X.weight`, the name that the matrix would have unquantized."""
    tensors: frozenset[str]
    """Names of the tensors that it is read from."""
    shape: tuple[int, int]
    kind: CodedKind
    read_codes: Callable[[Range, Range], U8]
    """Codes [N, K] of a range of rows and of columns, one a byte."""
    read_scales: Callable[[Range], F32]
    """Scales [N, P] of a range of rows, for all columns."""
    read_zero_points: Callable[[Range], U8] | None = None
    """Zero points [N, P] of a range of rows; None: the middle."""
    groups_K: I32 | None = None
    """Number of each column's scale; see `CodedRows`."""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 4 if self.kind.codes in ("int4", "nf4") else 8

    @property
    def fits_blocks(self) -> bool:
        """Whether the matrix can be a `BlockWeight`: whole numbers with a scale for each whole number of blocks."""
        is_whole = self.kind.codes in MIDDLES and not self.kind.is_grouped
        return is_whole and self.shape[1] % BLOCK == 0 and self.kind.part_inputs % BLOCK == 0

    def form(self, precision: Precision, *, is_vocabulary: bool) -> Form:
        """The form of the matrix at a precision. `own`: its own values, as blocks or, for ONNX Runtime, in fp32.

        Only matrices that the precision makes narrower are quantized again. Floats of 8 bits count as floats, because
        int8 is faster.
        """
        can_quantize = self.shape[1] % BLOCK == 0
        match precision:
            case "fp32":
                return "dense"
            case "auto":
                return "own"
            case "int8":
                if self.kind.codes == "e4m3" and can_quantize:
                    return "int8"
                return "widened" if self.fits_blocks and self.bits == 4 else "own"
            case "int4":
                return "own" if self.bits == 4 or is_vocabulary or not can_quantize else "int4"

    def check_columns(self, form: Form, columns: Range) -> None:
        """Raises ValueError if columns would cut a block."""
        if form in ("int8", "int4") or self.fits_blocks:
            check_columns(form, columns)

    def packing(self, form: Form, num_rows: int, columns: Range) -> Packing:
        """How the native kernels hold some rows and columns of the matrix."""
        shape = (num_rows, columns[1] - columns[0])
        match form:
            case "dense":
                return Packing(kind=Kind.F32, shape=shape)
            case "int8" | "int4":
                return Packing(kind=QUANTIZED_BLOCKS[form], shape=shape)
            case "own" | "widened":
                kind = self._block_kind() if self.fits_blocks else self.kind
                return Packing(kind=kind, shape=shape, first_column=columns[0])

    def _block_kind(self) -> BlockKind:
        return BlockKind(
            bits=4 if self.bits == 4 else 8,
            scales=self.kind.scales,
            offsets="zero_points" if self.kind.has_zero_points else None,
        )

    def num_bytes(self, form: Form, num_rows: int, columns: Range) -> int:
        """The `num_bytes` of what `weight` would return."""
        num_weights = num_rows * (columns[1] - columns[0])
        bits, arrays = 32, 0
        if form in ("int8", "int4"):
            bits, arrays = (8, 1) if form == "int8" else (4, 2)
        elif form != "dense" and self.fits_blocks:
            bits = 8 if form == "widened" else self.bits
            arrays = 2 if self.kind.has_zero_points else 1
        return num_weights * bits // 8 + num_weights // BLOCK * 4 * arrays

    def kept(self, form: Form, rows: slice | I64, columns: Range) -> BlockWeight | CodedRows | None:
        """The matrix as the native kernels take it if they hold its own values; otherwise None. See
        `WeightSource.raw_rows`."""
        if form not in ("own", "widened"):
            return None
        coded = self.read(rows, columns)
        return as_blocks(coded) if self.fits_blocks else coded

    def weight(self, form: Form, rows: slice | I64, columns: Range) -> Weight:
        """Some rows and columns in this form."""
        coded = self.read(rows, columns)
        match form:
            case "int8":
                return quantize_rows(values_of(coded), 8)
            case "int4":
                return quantize_rows(values_of(coded), 4)
            case "own" | "widened" if self.fits_blocks:
                return widen(as_blocks(coded)) if form == "widened" else as_blocks(coded)
            case _:
                return DenseWeight(values_NK=values_of(coded))

    def read(self, rows: slice | I64, columns: Range) -> CodedRows:
        """Some rows, in any order, and columns as the file has them. Raises ModelLoadError if a weight is not a finite
        number."""
        span, order = _span_of(rows)
        codes_NK = self.read_codes(span, columns)[order]
        if self.kind.codes == "e4m3" and np.any((codes_NK & _E4M3_NAN) == _E4M3_NAN):
            raise ModelLoadError(f"{self.where}: {self.name} holds a weight that is not a number")
        scales_NP = self.read_scales(span)[order]
        if np.any(~(np.abs(scales_NP) < _SCALE_LIMIT)):
            raise ModelLoadError(f"{self.where}: {self.name} has a scale that is not a number or belongs to no weight")
        zero_points_NP = self.read_zero_points(span)[order] if self.read_zero_points is not None else None
        if self.groups_K is not None:
            groups_K = np.ascontiguousarray(self.groups_K[columns[0] : columns[1]])
            return CodedRows(
                kind=self.kind,
                codes_NK=codes_NK,
                scales_NP=scales_NP,
                zero_points_NP=zero_points_NP,
                groups_K=groups_K,
            )
        part = self.kind.part_inputs
        parts = slice(columns[0] // part, max(1, -(-columns[1] // part)))
        return CodedRows(
            kind=self.kind,
            codes_NK=codes_NK,
            scales_NP=scales_NP[:, parts],
            zero_points_NP=None if zero_points_NP is None else zero_points_NP[:, parts],
            first_input=columns[0] % part,
        )


def _span_of(rows: slice | I64) -> tuple[Range, slice | I64]:
    """The smallest range that contains these rows, and their places in it."""
    if isinstance(rows, slice):
        first = min(rows.start, rows.stop)
        return (first, max(first, rows.stop)), slice(rows.start - first, None, rows.step)
    if rows.size == 0:
        return (0, 0), rows
    first = int(rows.min())
    return (first, int(rows.max()) + 1), rows - first


def values_of(rows: CodedRows) -> F32:
    """The fp32 values [N, K] of codes: a code's own value is exact, and its product with the scale is rounded."""
    parts_K = _part_of_each(rows, 1)
    scales_NK = rows.scales_NP[:, parts_K]
    match rows.kind.codes:
        case "e4m3":
            return E4M3_VALUES[rows.codes_NK] * scales_NK
        case "nf4":
            return NF4_VALUES[rows.codes_NK] * scales_NK
        case "int4" | "int8":
            levels_NK = rows.codes_NK.astype(np.float32)
            if rows.zero_points_NP is None:
                levels_NK -= MIDDLES[rows.kind.codes]
            else:
                levels_NK -= rows.zero_points_NP[:, parts_K]
            return levels_NK * scales_NK


def as_blocks(rows: CodedRows) -> BlockWeight:
    """Whole numbers as blocks. Blocks that share a scale repeat it, and an offset expresses the zero point, exactly if
    scales are fp16 or bfloat16 numbers."""
    parts_G = _part_of_each(rows, BLOCK)
    scales_NG = rows.scales_NP[:, parts_G]
    offsets_NG = None
    if rows.zero_points_NP is not None:
        below_NP = MIDDLES[rows.kind.codes] - rows.zero_points_NP.astype(np.float32)
        offsets_NG = scales_NG * below_NP[:, parts_G]
    codes_NGB = rows.codes_NK.reshape(len(rows.codes_NK), -1, BLOCK)
    is_4_bits = rows.kind.codes == "int4"
    q_NGB = pack_nibbles(codes_NGB) if is_4_bits else codes_NGB
    return BlockWeight(bits=4 if is_4_bits else 8, q_NGB=q_NGB, scales_NG=scales_NG, offsets_NG=offsets_NG)


def _part_of_each(rows: CodedRows, inputs: int) -> I32:
    """The number of the scale of every group of `inputs` inputs."""
    if rows.groups_K is not None:
        return rows.groups_K
    return ((rows.first_input + np.arange(0, rows.codes_NK.shape[1], inputs)) // rows.kind.part_inputs).astype(np.int32)
