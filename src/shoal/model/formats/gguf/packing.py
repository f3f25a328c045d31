"""How the native kernels hold a matrix, given its kind in the file and the form that a precision gives it.

They keep the file's own values for most kinds, in about as many bytes as the file. Only matrices that the precision
makes narrower are quantized again: to 4 bits, or floats to 8. Widening to 8 bits, as for ONNX Runtime, would take more
memory and change values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from shoal.model.formats.gguf.blocks import FLOATS, OWN_BITS, OWN_OFFSETS, Form, check_columns
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.weights import BlockKind, Packing, Range

PACKED_KINDS = {
    *FLOATS,
    *(Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0),
    *(Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K),
    *(Kind.IQ4_NL, Kind.IQ4_XS, Kind.MXFP4),
}
"""Kinds that have a packed form of their own. Source: native/gemm/packing/gguf_kinds.cpp"""
_TERNARY = {Kind.TQ1_0, Kind.TQ2_0}
"""Kinds whose blocks have scales that are the file's numbers in half precision."""

QUANTIZED_BLOCKS: Mapping[Form, BlockKind] = {"int8": BlockKind(bits=8), "int4": BlockKind(bits=4, offsets="float")}
"""How the kernels hold blocks that are quantized again. Source: model/formats/quantization.py"""


def keeps_values(kind: Kind, form: Form) -> bool:
    """Whether a matrix of this kind in this form is packed as it lies in the file."""
    if kind not in PACKED_KINDS:
        return False
    match form:
        case "own" | "widened":
            return True
        case "dense":
            return kind in FLOATS
        case "int8":
            return kind not in FLOATS
        case "int4":
            return False


def packing_of(kind: Kind, form: Form, num_rows: int, columns: Range) -> Packing:
    """How a part of a matrix is held. Raises ValueError if the columns cut a block."""
    check_columns(form, columns)
    shape = (num_rows, columns[1] - columns[0])
    if keeps_values(kind, form):
        return Packing(kind=kind, shape=shape, first_column=columns[0])
    match form:
        case "dense":
            return Packing(kind=Kind.F32, shape=shape)
        case "own":
            block = _own_blocks(_own_bits(kind), kind)
        case "widened":
            block = _own_blocks(8, kind)
        case "int8" | "int4":
            block = QUANTIZED_BLOCKS[form]
    return Packing(kind=block, shape=shape)


def _own_blocks(bits: Literal[4, 8], kind: Kind) -> BlockKind:
    numbers = "half" if kind in _TERNARY else "float"
    return BlockKind(bits=bits, scales=numbers, offsets=numbers if kind in OWN_OFFSETS else None)


def _own_bits(kind: Kind) -> Literal[4, 8]:
    return 4 if OWN_BITS[kind] == 4 else 8
