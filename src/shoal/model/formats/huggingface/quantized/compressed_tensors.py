"""compressed-tensors: whole numbers of 4 or 8 bits, packed or one a byte, and floats of 8 bits, in groups or rows.

Source: github.com/vllm-project/compressed-tensors, compressors pack_quantized and naive_quantized. The tensors show how
a module's weights are stored; the settings are used only for what the tensors do not show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shoal.arrays import U8
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.formats.huggingface.quantized.fp8 import byte_codes, e4m3_matrix, e4m3_names
from shoal.model.formats.huggingface.quantized.groups import groups_in, with_groups
from shoal.model.formats.huggingface.quantized.tensors import TensorFinder, scales_of, unpack_span
from shoal.model.formats.huggingface.tensor_files import Tensor
from shoal.model.weights import CodedKind, CodeKind, Range

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense", "mixed-precision")
_SIGN = np.uint8(0x80)
"""Turns a signed byte into one that counts from -128."""
_CODES: Mapping[int, CodeKind] = {4: "int4", 8: "int8"}


def find_compressed_tensors(finder: TensorFinder, settings: Mapping[str, Any]) -> list[CodedMatrix]:
    """All compressed matrices. Raises ModelLoadError."""
    groups = [group for group in (settings.get("config_groups") or {}).values() if isinstance(group, dict)]
    for named in (settings, *groups):
        if (form := named.get("format") or "dense") not in FORMATS:
            raise finder.refuse("the format", f"{form!r:.100} of compressed-tensors is not supported")
    if (settings.get("sparsity_config") or {}).get("format", "dense") != "dense":
        raise finder.refuse("'sparsity_config'", "of compressed-tensors is not supported")
    if (settings.get("transform_config") or {}).get("config_groups"):
        raise finder.refuse("'transform_config'", "of compressed-tensors is not supported")
    weights = [group.get("weights") or {} for group in groups]
    is_symmetric = all(one.get("symmetric", True) for one in weights)
    block = next((one["block_structure"] for one in weights if one.get("block_structure")), None)
    found = [_packed(finder, stem, is_symmetric=is_symmetric) for stem in finder.stems(".weight_packed")]
    found += [_in_bytes(finder, name, is_symmetric=is_symmetric) for name in _byte_names(finder)]
    found += [e4m3_matrix(finder, name, block=block) for name in e4m3_names(finder)]
    return found


def _byte_names(finder: TensorFinder) -> Iterator[str]:
    return (name for name, tensor in finder.tensors.items() if name.endswith(".weight") and tensor.dtype == "I8")


def _packed(finder: TensorFinder, stem: str, *, is_symmetric: bool) -> CodedMatrix:
    """`X.weight_packed` [N, K * bits / 32]: codes that count from the smallest number, in words, the lowest bits
    first."""
    name = f"{stem}.weight_packed"
    words, sizes = finder.find(name, "I32"), finder.find(f"{stem}.weight_shape", "I64", "I32")
    shape = tuple(int(size) for size in sizes.items("<i8" if sizes.dtype == "I64" else "<i4"))
    if len(shape) != 2 or len(words.shape) != 2 or words.shape[0] != shape[0] or min(shape) < 1:
        raise finder.refuse(name, f"has the shape {list(words.shape)}, no matrix of {list(shape)}")
    num_rows, num_columns = shape
    bits = next((bits for bits in _CODES if -(-num_columns * bits // 32) == words.shape[1]), None)
    if bits is None:
        raise finder.refuse(name, f"has {words.shape[1]} words a row; codes have 4 or 8 bits")
    scales = scales_of(finder, f"{stem}.weight_scale", (num_rows, num_columns))
    zeros_name = f"{stem}.weight_zero_point"
    has_zeros = not is_symmetric and zeros_name in finder.tensors
    num_parts = -(-num_columns // scales.part_inputs)
    zeros = finder.find(zeros_name, "I32") if has_zeros else None
    if zeros is not None:
        finder.require_shape(zeros_name, zeros, -(-num_rows * bits // 32), num_parts)

    def read_codes(rows: Range, columns: Range) -> U8:
        return unpack_span(words.items("<i4").reshape(words.shape)[rows[0] : rows[1]], bits, columns)

    def read_zero_points(rows: Range) -> U8:
        assert zeros is not None
        return unpack_span(zeros.items("<i4").reshape(zeros.shape).T, bits, rows).T

    matrix = CodedMatrix(
        where=finder.where,
        name=f"{stem}.weight",
        tensors=frozenset(f"{stem}.weight_{part}" for part in ("packed", "shape", "scale", "zero_point", "g_idx")),
        shape=(num_rows, num_columns),
        kind=CodedKind(
            codes=_CODES[bits],
            scales=scales.numbers,
            part_inputs=scales.part_inputs,
            has_zero_points=zeros is not None,
        ),
        read_codes=read_codes,
        read_scales=scales.read,
        read_zero_points=read_zero_points if zeros is not None else None,
    )
    groups_K = groups_in(finder, f"{stem}.weight_g_idx", num_columns, num_parts, scales.part_inputs)
    return with_groups(matrix, groups_K, num_parts)


def _in_bytes(finder: TensorFinder, name: str, *, is_symmetric: bool) -> CodedMatrix:
    """`X.weight` [N, K] as signed bytes; `X.weight_zero_point`, also signed, in the shape of the scales."""
    tensor = finder.find(name, "I8")
    if len(tensor.shape) != 2:
        raise finder.refuse(name, f"has the shape {list(tensor.shape)}, no matrix's")
    shape = (tensor.shape[0], tensor.shape[1])
    scales = scales_of(finder, f"{name}_scale", shape)
    zeros_name = f"{name}_zero_point"
    zeros: Tensor | None = None
    if not is_symmetric and zeros_name in finder.tensors:
        zeros = finder.find(zeros_name, "I8")
        finder.require_shape(zeros_name, zeros, *finder.tensors[f"{name}_scale"].shape)

    def read_zero_points(rows: Range) -> U8:
        assert zeros is not None
        points = zeros.items("u1") ^ _SIGN
        if points.size == 1:
            return np.full((rows[1] - rows[0], 1), points[0])
        return points.reshape(shape[0], -1)[rows[0] : rows[1]]

    return CodedMatrix(
        where=finder.where,
        name=name,
        tensors=frozenset((name, *(f"{name}_{part}" for part in ("scale", "zero_point")))),
        shape=shape,
        kind=CodedKind(
            codes="int8",
            scales=scales.numbers,
            part_inputs=scales.part_inputs,
            has_zero_points=zeros is not None,
        ),
        read_codes=lambda rows, columns: byte_codes(tensor, rows, columns) ^ _SIGN,
        read_scales=scales.read,
        read_zero_points=read_zero_points if zeros is not None else None,
    )
