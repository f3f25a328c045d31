"""Packs some matrices of a model into one piece of memory, in which their places follow from the file's header.

Shapes: N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from shoal.arrays import U8
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.weights import (
    BlockKind,
    BlockWeight,
    CodedRows,
    CodeKind,
    DenseWeight,
    NumberKind,
    Packing,
    Precision,
    RawRows,
    Weight,
    WeightSource,
)

if TYPE_CHECKING:
    from shoal._native import Matrix, PackedForm, ThreadPool


TILE_OUTPUTS = 16
"""Source: native/gemm/matrix.h, kTileOutputs"""
_WEIGHTS_AT_ONCE = 1 << 22
"""Weights that are widened at once: 16 MB of fp32, far below a percent of any model for which it matters."""
SCALES: Mapping[NumberKind | Literal["zero_points"] | None, int] = {
    None: 0,
    "half": 1,
    "float": 2,
    "bfloat": 6,
    "zero_points": 7,
}
"""Source: enum Scales in native/gemm/matrix.h"""
FLOAT_CODES: Mapping[CodeKind, int] = {"e4m3": 11, "nf4": 12}
GROUPED_CODES: Mapping[CodeKind, int] = {"int4": 13, "int8": 14}
"""Source: enum Codes in native/gemm/matrix.h"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Place of one matrix in a piece of memory."""

    name: str
    form: PackedForm
    start_bytes: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """Places of matrices in a piece of memory, one after the other; each begins at a multiple of 64 bytes."""

    matrices: tuple[Placed, ...]
    num_bytes: int


def packed_form(packing: Packing) -> PackedForm:
    """The layout of a matrix that is held as `packing` says. Raises ValueError for a matrix without inputs."""
    from shoal._native import blocks_form, coded_form, gguf_form

    num_outputs, num_inputs = packing.shape
    if isinstance(packing.kind, int):
        return gguf_form(packing.kind, num_outputs, num_inputs, packing.first_column)
    kind = packing.kind
    if isinstance(kind, BlockKind):
        return blocks_form(kind.bits, num_outputs, num_inputs, SCALES[kind.scales], SCALES[kind.offsets])
    zero_points = SCALES["zero_points" if kind.has_zero_points else None]
    codes = (GROUPED_CODES if kind.is_grouped else FLOAT_CODES)[kind.codes]
    first_input = 0 if kind.is_grouped else packing.first_column % kind.part_inputs
    return coded_form(codes, num_outputs, num_inputs, SCALES[kind.scales], zero_points, kind.part_inputs, first_input)


def packed_bytes(source: WeightSource, name: str, precision: Precision) -> int:
    """Bytes of a packed matrix, from the file's header alone; 0 if it has no weights."""
    from shoal._native import layout_bytes

    packing = source.packing(name, precision)
    return layout_bytes(packed_form(packing)) if 0 not in packing.shape else 0


def arrange(source: WeightSource, names: Sequence[str], precision: Precision) -> Arrangement:
    """Places of these matrices when they are packed together. Matrices without weights, of a shard without heads, are
    left out."""
    from shoal._native import layout_bytes

    placed, end = list[Placed](), 0
    for name in names:
        packing = source.packing(name, precision)
        if 0 in packing.shape:
            continue
        form = packed_form(packing)
        placed.append(Placed(name=name, form=form, start_bytes=end, num_bytes=layout_bytes(form)))
        end += placed[-1].num_bytes
    return Arrangement(matrices=tuple(placed), num_bytes=end)


def pack(source: WeightSource, arrangement: Arrangement, precision: Precision, pool: ThreadPool, memory: U8) -> None:
    """Pack the matrices into memory that begins at a multiple of 64 bytes, then release the file's pages.

    Raises:
        ModelLoadError: the file cannot be read.
    """
    for placed in arrangement.matrices:
        out = _part(memory, placed)
        kept = source.raw_rows(placed.name, precision)
        match kept:
            case RawRows():
                _pack_raw(kept, pool, out)
            case CodedRows():
                _pack_coded(kept, placed.form, pool, out)
            case None:
                _pack_quantized(source, placed, precision, pool, out)
            case _:
                pack_weight(kept, placed.form, pool, out)
    source.release_pages()


def matrices_in(arrangement: Arrangement, memory: U8) -> Mapping[str, Matrix]:
    """The matrices in packed memory. They are views that keep the memory alive."""
    from shoal._native import Matrix

    return {placed.name: Matrix(placed.form, _part(memory, placed)) for placed in arrangement.matrices}


def weight_form(weight: Weight) -> PackedForm:
    """The layout of a weight that does not come from a file: scales and offsets are held in half precision if that is
    exact."""
    if isinstance(weight, DenseWeight):
        return packed_form(Packing(kind=Kind.F32, shape=weight.shape))
    from shoal._native import blocks_form

    numbers = [weight.scales_NG, *([] if weight.offsets_NG is None else [weight.offsets_NG])]
    with np.errstate(over="ignore"):
        in_half = all(np.array_equal(x.astype(np.float16).astype(np.float32), x) for x in numbers)
    scales = SCALES["half" if in_half else "float"]
    return blocks_form(weight.bits, *weight.shape, scales, scales if weight.offsets_NG is not None else SCALES[None])


def _pack_quantized(source: WeightSource, placed: Placed, precision: Precision, pool: ThreadPool, out: U8) -> None:
    """Pack a matrix that must be widened and quantized again. Some rows are processed at a time, and their pages of the
    file are released before the next ones are read."""
    packing = source.packing(placed.name, precision)
    num_outputs, num_inputs = packing.shape
    step = num_outputs
    if isinstance(packing.kind, BlockKind):
        step = max(1, _WEIGHTS_AT_ONCE // num_inputs // TILE_OUTPUTS) * TILE_OUTPUTS
    for first in range(0, num_outputs, step):
        weight = source.matrix(placed.name, precision, rows=(first, min(first + step, num_outputs)))
        pack_weight(weight, placed.form, pool, out, first_output=first)
        source.release_pages()


def pack_weight(weight: Weight, form: PackedForm, pool: ThreadPool, out: U8, *, first_output: int = 0) -> None:
    """Pack a weight into memory of its `weight_form`, or of the form in which its source says it is held.

    `first_output`: if the weight is some rows of quantized blocks, the number of the first one, a multiple of
    TILE_OUTPUTS.
    """
    from shoal._native import pack_blocks, pack_gguf

    match weight:
        case DenseWeight():
            rows_NB = np.ascontiguousarray(weight.values_NK).view(np.uint8)
            pack_gguf(pool, Kind.F32, rows_NB, None, 0, weight.shape[1], out)
        case BlockWeight():
            q_NGB, scales_NG = np.ascontiguousarray(weight.q_NGB), np.ascontiguousarray(weight.scales_NG)
            offsets_NG = None if weight.offsets_NG is None else np.ascontiguousarray(weight.offsets_NG)
            pack_blocks(pool, form, q_NGB, scales_NG, offsets_NG, out, first_output)


def _pack_raw(raw: RawRows, pool: ThreadPool, out: U8) -> None:
    from shoal._native import pack_gguf

    first, last = raw.columns
    pack_gguf(pool, raw.kind, raw.rows_NB, raw.order_N, first, last - first, out)


def _pack_coded(rows: CodedRows, form: PackedForm, pool: ThreadPool, out: U8) -> None:
    from shoal._native import pack_coded

    codes_NK, scales_NP = np.ascontiguousarray(rows.codes_NK), np.ascontiguousarray(rows.scales_NP)
    zero_points_NP = None if rows.zero_points_NP is None else np.ascontiguousarray(rows.zero_points_NP)
    pack_coded(pool, form, codes_NK, scales_NP, zero_points_NP, rows.groups_K, out)


def _part(memory: U8, placed: Placed) -> U8:
    return memory[placed.start_bytes : placed.start_bytes + placed.num_bytes]
