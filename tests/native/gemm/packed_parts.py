"""What a packed matrix holds, read by NumPy as native/gemm/matrix.h says: the reference of packing and of products.

Shapes: N outputs, K inputs, P = K / part_inputs parts that share a scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

BITS2, BITS3, BITS4, BITS5, BITS6, BYTES, TABLE_IQ4, TABLE_MXFP4, FLOAT, HALF, BFLOAT = range(11)
E4M3, TABLE_NF4, GROUPED4, GROUPED8 = range(11, 15)
NO_SCALES, HALF_SCALES, FLOAT_SCALES, SUPER, NIBBLES, EXPONENT, BRAIN_SCALES, ZERO_POINTS = range(8)
PLANES = {BITS2: (2,), BITS3: (2, 1), BITS4: (4,), BITS5: (4, 1), BITS6: (4, 2), TABLE_IQ4: (4,), TABLE_MXFP4: (4,)}
"""Bits of the planes of each kind of codes, the low bits first."""
TABLES = {
    TABLE_IQ4: (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
    TABLE_MXFP4: (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
}
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""Source: bitsandbytes, functional.py, `get_4bit_type`"""
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedParts:
    """Weight k of output n is scales[n, k // part_inputs] * levels[n, k] + offsets[n, k // part_inputs], exactly."""

    levels_NK: npt.NDArray[np.int32]
    scales_NP: F64
    offsets_NP: F64
    part_inputs: int

    def values(self) -> F64:
        """In fp64, where products of fp16 numbers and small integers, and most sums of them, are exact."""
        scales_NK, offsets_NK = (np.repeat(x, self.part_inputs, axis=1) for x in (self.scales_NP, self.offsets_NP))
        return scales_NK * self.levels_NK + offsets_NK


class _Reader:
    """Takes one array after the other, each at a multiple of 64 bytes."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self._data, self._at = data, 0

    def take(self, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        array = np.frombuffer(self._data, dtype, count, self._at) if count else np.zeros(0, dtype)
        self._at += -(-count * array.itemsize // 64) * 64
        return array.reshape(shape)


def read_dense(form: tuple[int, ...], data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The values of a dense matrix."""
    codes, num_outputs, num_inputs = form[0], form[4], form[5]
    if codes >= E4M3:
        return _read_coded(form, data)
    dtype = {FLOAT: "<f4", HALF: "<f2", BFLOAT: "<u2"}[codes]
    items = _Reader(data).take(dtype, (-(-num_outputs // 16), num_inputs, 16))
    items_NK = items.transpose(0, 2, 1).reshape(-1, num_inputs)[:num_outputs]
    if codes == BFLOAT:
        return (items_NK.astype(np.uint32) << 16).view(np.float32)
    return items_NK.astype(np.float32)


def _read_coded(form: tuple[int, ...], data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Floats of 8 bits as ml_dtypes has them; each product with a scale is rounded once."""
    codes, scales, offsets, zero_point, num_outputs, num_inputs, part_inputs, first_input = form
    tiles, is_grouped, is_narrow = -(-num_outputs // 16), codes in (GROUPED4, GROUPED8), codes in (TABLE_NF4, GROUPED4)
    parts = part_inputs if is_grouped else -(-(first_input + num_inputs) // part_inputs)
    reader = _Reader(data)
    code_TKV = reader.take("u1", (tiles, num_inputs, 8 if is_narrow else 16))
    if is_narrow:
        code_TKV = np.concatenate([code_TKV & 15, code_TKV >> 4], axis=-1)
    scale_TP = _numbers(scales, reader.take(*_coarse(scales, tiles, parts, 0)))
    group_K = reader.take("<i4", (num_inputs if is_grouped else 0,))
    zero_TP = reader.take("u1", (tiles, parts if offsets == ZERO_POINTS else 0, 16))

    part_K = group_K if is_grouped else (first_input + np.arange(num_inputs)) // part_inputs
    if codes == E4M3:
        levels = code_TKV.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    elif codes == TABLE_NF4:
        levels = NF4[code_TKV]
    else:
        zeros = zero_TP[:, part_K].astype(np.float32) if offsets == ZERO_POINTS else np.float32(zero_point)
        levels = code_TKV - zeros
    values_TKV = levels.astype(np.float32) * scale_TP.astype(np.float32)[:, part_K]
    return values_TKV.transpose(0, 2, 1).reshape(-1, num_inputs)[:num_outputs]


def _numbers(scales: int, items: np.ndarray) -> np.ndarray:
    return (items.astype(np.uint32) << 16).view(np.float32) if scales == BRAIN_SCALES else items


def read_parts(form: tuple[int, ...], data: npt.NDArray[np.uint8]) -> PackedParts:
    """The parts of a block-quantized matrix, those of the outputs that fill the last tile up left out."""
    codes, scales, offsets, zero_point, num_outputs, num_inputs, part_inputs, first_block = form
    tiles, blocks = -(-num_outputs // 16), -(-num_inputs // 32)
    parts, supers = blocks * 32 // part_inputs, -(-(first_block + blocks) // 8)
    reader = _Reader(data)
    code_TBV = reader.take("u1", (tiles, blocks, 64 * (8 if codes == BYTES else sum(PLANES[codes]))))
    coarse = reader.take(*_coarse(scales, tiles, parts, supers))
    fine = reader.take("u1", (tiles, parts if scales in (SUPER, NIBBLES) else 0, 16))
    coarse_offsets = reader.take(*_coarse(offsets, tiles, parts, supers))
    fine_offsets = reader.take("u1", (tiles, parts if offsets == SUPER else 0, 16))

    of_part = (first_block * 32 + np.arange(parts) * part_inputs) // 256
    match scales:
        case 3:
            scale_TP = coarse[:, of_part] * fine.view(np.int8).astype(np.float64)
        case 4:
            scale_TP = coarse[:, of_part] * (fine & 15).astype(np.float64)
        case 5:
            scale_TP = 2.0 ** (coarse.astype(np.float64) - 128)
        case _:
            scale_TP = _numbers(scales, coarse).astype(np.float64)
    match offsets:
        case 0:
            offset_TP = np.zeros((tiles, parts, 16))
        case 3:
            offset_TP = -coarse_offsets[:, of_part] * fine_offsets.astype(np.float64)
        case 4:
            offset_TP = -coarse_offsets[:, of_part] * (fine >> 4).astype(np.float64)
        case 7:
            offset_TP = scale_TP * ((128 if codes == BYTES else zero_point) - coarse_offsets.astype(np.float64))
        case _:
            offset_TP = _numbers(offsets, coarse_offsets).astype(np.float64)
    return PackedParts(
        levels_NK=_levels(codes, zero_point, code_TBV)[:num_outputs],
        scales_NP=scale_TP.transpose(0, 2, 1).reshape(-1, parts)[:num_outputs],
        offsets_NP=offset_TP.transpose(0, 2, 1).reshape(-1, parts)[:num_outputs],
        part_inputs=part_inputs,
    )


def _coarse(scales: int, tiles: int, parts: int, supers: int) -> tuple[str, tuple[int, int, int]]:
    dtypes = {HALF_SCALES: "<f2", FLOAT_SCALES: "<f4", SUPER: "<f2", NIBBLES: "<f2", EXPONENT: "u1", NO_SCALES: "u1"}
    dtypes |= {BRAIN_SCALES: "<u2", ZERO_POINTS: "u1"}
    count = {SUPER: supers, NIBBLES: supers, NO_SCALES: 0}.get(scales, parts)
    return dtypes[scales], (tiles, count, 16)


def _levels(codes: int, zero_point: int, code_TBV: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """What the scales are multiplied with, [N padded, K padded]."""
    tiles, blocks, _ = code_TBV.shape
    vectors = code_TBV.reshape(tiles, blocks, -1, 64)
    groups = np.zeros((tiles, blocks, 8, 64), np.int32)
    if codes == BYTES:
        groups[...] = vectors.view(np.int8)
    vector, place = 0, 0
    for bits in PLANES.get(codes, ()):
        for group in range(8):
            in_plane, slot = divmod(group, 8 // bits)
            field = vectors[:, :, vector + in_plane].astype(np.int32) >> (bits * slot)
            groups[:, :, group] |= (field & ((1 << bits) - 1)) << place
        vector, place = vector + bits, place + bits
    # [tile, block, group, output, input of the group] to [output, input]
    levels = groups.reshape(tiles, blocks, 8, 16, 4).transpose(0, 3, 1, 2, 4).reshape(tiles * 16, blocks * 32)
    return np.array(TABLES[codes])[levels] if codes in TABLES else levels - zero_point
