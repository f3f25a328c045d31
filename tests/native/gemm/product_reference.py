"""What the native products compute, bit by bit, in NumPy: integers exactly, fp32 in the order that
native/gemm/kernel.cpp states, and fused multiply-adds through fp64.

Shapes: T rows, N outputs, K inputs, G blocks of 32 inputs, P parts that share a scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.native.gemm.packed_parts import PackedParts, read_dense, read_parts

F32 = npt.NDArray[np.float32]
FLOAT = 8
"""The first kind of codes that are floats; see native/gemm/matrix.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedRows:
    """Activation k is about codes[t, k] * scales[t, k // 32]."""

    codes_TK: npt.NDArray[np.int64]
    scales_TG: F32


def quantize(values_TK: F32, *, exact: bool) -> QuantizedRows:
    """The largest value of a block is 127 steps, or 127 * 128; halves go to the even step."""
    num_rows, num_inputs = values_TK.shape
    padded_TGB = np.zeros((num_rows, -(-num_inputs // 32), 32), np.float32)
    padded_TGB.reshape(num_rows, -1)[:, :num_inputs] = values_TK
    largest_TG = np.abs(padded_TGB).max(axis=2)
    steps = np.float32(127 * 128 if exact else 127)
    is_zero_TG = largest_TG <= np.float32(1e-30)
    divisor_TG = np.where(is_zero_TG, np.float32(1), largest_TG)
    scales_TG = np.where(is_zero_TG, np.float32(0), largest_TG / steps)
    inverse_TG = np.where(is_zero_TG, np.float32(0), steps / divisor_TG)
    codes_TGB = np.rint(padded_TGB * inverse_TG[..., None]).astype(np.int64)
    return QuantizedRows(codes_TK=codes_TGB.reshape(num_rows, -1), scales_TG=scales_TG)


def fused(a: F32, b: F32, c: F32) -> F32:
    """a * b + c, rounded once. The product is exact in fp64 and its sum with c is rounded to odd there, so that
    rounding it to fp32 gives the nearest. Source: Boldo and Melquiond, IEEE Transactions on Computers 57(4), 2008."""
    product, addend = np.broadcast_arrays(a.astype(np.float64) * b, c.astype(np.float64))
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    towards = np.where(error > 0, np.inf, -np.inf)
    is_even = total.view(np.int64) & 1 == 0
    return np.where((error != 0) & is_even, np.nextafter(total, towards), total).astype(np.float32)


def product_of(form: tuple[int, ...], data: npt.NDArray[np.uint8], values_TK: F32, *, exact: bool) -> F32:
    """values W^T of a packed matrix, [T, N]."""
    if form[0] >= FLOAT:
        return _dense_product(read_dense(form, data), values_TK)
    return _block_product(read_parts(form, data), quantize(values_TK, exact=exact), has_offsets=form[2] != 0)


def _dense_product(weights_NK: F32, values_TK: F32) -> F32:
    out_TN = np.zeros((len(values_TK), len(weights_NK)), np.float32)
    for k in range(weights_NK.shape[1]):
        out_TN = fused(values_TK[:, k, None], weights_NK[None, :, k], out_TN)
    return out_TN


def _block_product(parts: PackedParts, rows: QuantizedRows, *, has_offsets: bool) -> F32:
    out_TN = np.zeros((len(rows.codes_TK), len(parts.levels_NK)), np.float32)
    for p in range(parts.scales_NP.shape[1]):
        span = slice(p * parts.part_inputs, (p + 1) * parts.part_inputs)
        codes_TB, row_scales_T1 = rows.codes_TK[:, span], rows.scales_TG[:, span.start // 32, None]
        dots_TN = (codes_TB @ parts.levels_NK[:, span].T.astype(np.int64)).astype(np.float32)
        out_TN = fused(dots_TN, parts.scales_NP[None, :, p].astype(np.float32) * row_scales_T1, out_TN)
        if has_offsets:
            sums_T1 = codes_TB.sum(axis=1, keepdims=True).astype(np.float32) * row_scales_T1
            out_TN = fused(parts.offsets_NP[None, :, p].astype(np.float32), sums_T1, out_TN)
    return out_TN
