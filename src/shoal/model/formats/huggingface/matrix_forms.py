"""The form that a matrix of a Hugging Face directory takes at a precision."""

from __future__ import annotations

from shoal.arrays import U8
from shoal.model.formats.gguf.blocks import Form, check_columns, choose_form, to_dense
from shoal.model.formats.gguf.kinds import BLOCK_SIZES, Kind
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.formats.quantization import quantize_rows
from shoal.model.weights import VOCABULARY, DenseWeight, Precision, Range, Weight, own_precision, resolve_range


def floats_to_weight(rows_NB: U8, kind: Kind, form: Form, columns: Range) -> Weight:
    """Some columns of rows of floats, the only ones that are widened. A view of the rows if they are fp32 and stay
    so."""
    item_bytes = BLOCK_SIZES[kind][1]
    values_NK = to_dense(rows_NB[:, columns[0] * item_bytes : columns[1] * item_bytes], kind)
    match form:
        case "int8":
            return quantize_rows(values_NK, 8)
        case "int4":
            return quantize_rows(values_NK, 4)
        case _:
            return DenseWeight(values_NK=values_NK)


def coded_form(coded: CodedMatrix, name: str, precision: Precision, columns: Range | None) -> tuple[Form, Range]:
    """The form of a quantized matrix, and the range of columns that is wanted."""
    form = coded.form(own_precision(name, precision), is_vocabulary=name in VOCABULARY)
    resolved = resolve_range(columns, coded.shape[1])
    coded.check_columns(form, resolved)
    return form, resolved


def form_of(kind: Kind, name: str, num_columns: int, precision: Precision, columns: Range | None) -> tuple[Form, Range]:
    """The form of a matrix of this kind and number of columns, and the range of columns that is wanted."""
    form = choose_form(kind, own_precision(name, precision), num_columns=num_columns, is_vocabulary=name in VOCABULARY)
    resolved = resolve_range(columns, num_columns)
    check_columns(form, resolved)
    return form, resolved
