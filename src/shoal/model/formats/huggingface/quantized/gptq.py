"""GPTQ and AWQ: whole numbers of 4 or 8 bits in words of 32, scales and zero points of groups of columns.

Shapes: N rows, K columns, P groups.
Source: github.com/AutoGPTQ/AutoGPTQ and ModelCloud/GPTQModel (qlinear: `pack`, `checkpoint_format`), and
github.com/casper-hansen/AutoAWQ (awq/modules/linear/gemm.py, `order_map`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.arrays import U8
from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.quantized.coded_matrix import MIDDLES, CodedMatrix
from shoal.model.formats.huggingface.quantized.groups import groups_in, with_groups
from shoal.model.formats.huggingface.quantized.tensors import NUMBER_KINDS, TensorFinder, floats, unpack_span
from shoal.model.formats.huggingface.tensor_files import Tensor
from shoal.model.weights import CodedKind, CodeKind, Range

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Output that each nibble of a word belongs to, the lowest nibble first."""
_CODES: Mapping[int, CodeKind] = {4: "int4", 8: "int8"}
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def find_gptq(finder: TensorFinder, settings: Mapping[str, Any]) -> list[CodedMatrix]:
    """All matrices in GPTQ: `X.qweight` [K * bits / 32, N], `X.qzeros` [P, N * bits / 32], `X.scales` [P, N].

    The first version of the format stores zero points minus 1.

    Raises:
        ModelLoadError: a setting or tensor is not supported.
    """
    bits = _bits(finder, settings, (4, 8))
    version = settings.get("checkpoint_format") or "gptq"
    if version not in ("gptq", "gptq_v2") or settings.get("is_marlin_format"):
        raise finder.refuse("'checkpoint_format'", f"{version!r:.100} of GPTQ is not supported: gptq and gptq_v2 are")
    if (settings.get("pack_dtype") or "int32") != "int32":
        raise finder.refuse("'pack_dtype'", f"{settings['pack_dtype']!r:.100} of GPTQ is not supported: int32 is")
    for pattern in settings.get("dynamic") or {}:
        if not pattern.startswith("-:"):
            raise finder.refuse("'dynamic'", f"of GPTQ has settings of its own for {pattern!r:.100}, not supported")
    is_first = version == "gptq"
    is_symmetric = settings.get("sym", True) is True
    return [
        _gptq_matrix(finder, stem, bits, settings.get("group_size", -1), is_first=is_first, is_symmetric=is_symmetric)
        for stem in finder.stems(".qweight")
    ]


def find_awq(finder: TensorFinder, settings: Mapping[str, Any]) -> list[CodedMatrix]:
    """All matrices in AWQ, in the form of its `gemm` kernel: `X.qweight` [K, N / 8], `X.qzeros` [P, N / 8]. Raises
    ModelLoadError."""
    _bits(finder, settings, (4,))
    version = str(settings.get("version", "gemm")).lower()
    if version != "gemm" or (settings.get("backend") or "autoawq") != "autoawq":
        raise finder.refuse("'version'", f"{version!r:.100} of AWQ is not supported: gemm is")
    return [_awq_matrix(finder, stem, settings.get("group_size", -1)) for stem in finder.stems(".qweight")]


def _bits(finder: TensorFinder, settings: Mapping[str, Any], known: tuple[int, ...]) -> int:
    bits = settings.get("bits")
    if bits not in known:
        raise finder.refuse("'bits'", f"is {bits!r:.100}, which is not supported; {' and '.join(map(str, known))} are")
    return bits


def _group(finder: TensorFinder, name: str, num_groups: int, size: Any, num_columns: int) -> int:
    """Columns of a group. Raises ModelLoadError."""
    group = num_columns if size == -1 else size
    if type(group) is not int or group < 1 or num_groups != -(-num_columns // group):
        raise finder.refuse(name, f"has {num_groups} groups of {num_columns} columns, and 'group_size' is {size!r:.50}")
    return group


def _gptq_matrix(
    finder: TensorFinder, stem: str, bits: int, group_size: Any, *, is_first: bool, is_symmetric: bool
) -> CodedMatrix:
    words, zeros, scales = _three(finder, stem)
    num_columns, num_rows = words.shape[0] * 32 // bits, words.shape[1]
    num_groups = scales.shape[0]
    group = _group(finder, f"{stem}.scales", num_groups, group_size, num_columns)
    finder.require_shape(f"{stem}.scales", scales, num_groups, num_rows)
    finder.require_shape(f"{stem}.qzeros", zeros, num_groups, -(-num_rows * bits // 32))
    codes = _CODES[bits]

    def read_codes(rows: Range, columns: Range) -> U8:
        return unpack_span(words.items("<i4").reshape(words.shape)[:, rows[0] : rows[1]].T, bits, columns)

    def read_zero_points(rows: Range) -> U8:
        points_NP = unpack_span(zeros.items("<i4").reshape(zeros.shape), bits, rows).T
        return (points_NP + np.uint8(is_first)) & np.uint8((1 << bits) - 1)

    def read_scales(rows: Range) -> np.ndarray:
        if is_symmetric and np.any(read_zero_points(rows) != MIDDLES[codes]):
            raise ModelLoadError(f"{finder.where}: {stem}.qzeros is not symmetric, though 'sym' says so")
        return floats(scales)[:, rows[0] : rows[1]].T

    matrix = CodedMatrix(
        where=finder.where,
        name=f"{stem}.weight",
        tensors=frozenset(f"{stem}.{part}" for part in _PARTS),
        shape=(num_rows, num_columns),
        kind=CodedKind(
            codes=codes,
            scales=NUMBER_KINDS[scales.dtype],
            part_inputs=group,
            has_zero_points=not is_symmetric,
        ),
        read_codes=read_codes,
        read_scales=read_scales,
        read_zero_points=None if is_symmetric else read_zero_points,
    )
    return with_groups(matrix, groups_in(finder, f"{stem}.g_idx", num_columns, num_groups, group), num_groups)


def _awq_matrix(finder: TensorFinder, stem: str, group_size: Any) -> CodedMatrix:
    words, zeros, scales = _three(finder, stem)
    num_columns, num_rows = words.shape[0], words.shape[1] * 8
    num_groups = scales.shape[0]
    group = _group(finder, f"{stem}.scales", num_groups, group_size, num_columns)
    finder.require_shape(f"{stem}.scales", scales, num_groups, num_rows)
    finder.require_shape(f"{stem}.qzeros", zeros, num_groups, words.shape[1])

    def read_codes(rows: Range, columns: Range) -> U8:
        words_KW = words.items("<i4").reshape(words.shape)[columns[0] : columns[1]]
        return unpack_span(words_KW, 4, rows, AWQ_ORDER).T

    return CodedMatrix(
        where=finder.where,
        name=f"{stem}.weight",
        tensors=frozenset(f"{stem}.{part}" for part in _PARTS),
        shape=(num_rows, num_columns),
        kind=CodedKind(
            codes="int4",
            scales=NUMBER_KINDS[scales.dtype],
            part_inputs=group,
            has_zero_points=True,
        ),
        read_codes=read_codes,
        read_scales=lambda rows: floats(scales)[:, rows[0] : rows[1]].T,
        read_zero_points=lambda rows: unpack_span(zeros.items("<i4").reshape(zeros.shape), 4, rows, AWQ_ORDER).T,
    )


def _three(finder: TensorFinder, stem: str) -> tuple[Tensor, Tensor, Tensor]:
    words, zeros = finder.find(f"{stem}.qweight", "I32"), finder.find(f"{stem}.qzeros", "I32")
    scales = finder.find(f"{stem}.scales", "F16", "BF16", "F32")
    if any(len(tensor.shape) != 2 or 0 in tensor.shape for tensor in (words, zeros, scales)):
        raise finder.refuse(f"{stem}.qweight", f"has the shape {list(words.shape)}, no matrix's")
    return words, zeros, scales
