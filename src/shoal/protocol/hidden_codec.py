"""Hidden states as bytes at the precision of a link: fp32, fp16, or 8 bits in blocks.

8 bits: each row is divided into blocks of 64 values; a block is one fp32 scale, its largest magnitude / 127, and 64
signed codes. A decoder's hidden states have a few channels that are 10 to 100 times as large as all others (source:
LLM.int8(), arXiv 2208.07339), so the 8 largest values of each row are sent in fp32, and count as 0 in their blocks. The
order is: large values, scales, places of the large values, codes; each for all rows.

Shapes: T tokens, D hidden size, N blocks of a row, the last one filled up with zeros, L large values of a row.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32
from shoal.errors import RemoteProtocolError

LinkPrecision = Literal["fp32", "fp16", "int8"]
LINK_PRECISIONS: tuple[LinkPrecision, ...] = ("fp32", "fp16", "int8")
"""The precisions, from exact to smallest."""

_BLOCK = 64
_NUM_LARGE = 8
_LARGEST_CODE = 127
_FP16_MAX = 65504.0


def hidden_bytes(num_tokens: int, hidden_size: int, precision: LinkPrecision) -> int:
    """Bytes of hidden states [T, D] on the link."""
    if precision == "int8":
        return num_tokens * (_num_blocks(hidden_size) * (4 + _BLOCK) + _num_large(hidden_size) * (4 + 2))
    return num_tokens * hidden_size * (2 if precision == "fp16" else 4)


def pack_hidden(x_TD: F32, precision: LinkPrecision) -> list[memoryview]:
    """Encode hidden states as the parts of a frame, at fp32 without a copy. fp16 clips values beyond its range."""
    match precision:
        case "fp32":
            return [_raw(x_TD)]
        case "fp16":
            return [_raw(np.clip(x_TD, -_FP16_MAX, _FP16_MAX).astype(np.float16))]
        case "int8":
            num_large = _num_large(x_TD.shape[1])
            places_TL = np.argpartition(-np.abs(x_TD), num_large - 1, axis=1)[:, :num_large]
            large_TL = np.take_along_axis(x_TD, places_TL, axis=1)
            rest_TD = x_TD.copy()
            np.put_along_axis(rest_TD, places_TL, 0.0, axis=1)
            blocks_TNB = _blocks(rest_TD)
            scales_TN = np.abs(blocks_TNB).max(axis=2) / np.float32(_LARGEST_CODE)
            inverse_TN = np.divide(1.0, scales_TN, out=np.zeros_like(scales_TN), where=scales_TN > 0)
            codes_TNB = np.rint(blocks_TNB * inverse_TN[..., np.newaxis]).astype(np.int8)
            return [_raw(large_TL), _raw(scales_TN), _raw(places_TL.astype("<u2")), _raw(codes_TNB)]


def unpack_hidden(data: memoryview, num_tokens: int, hidden_size: int, precision: LinkPrecision) -> F32:
    """Decode hidden states [T, D]; fp32 is read in place. Raises RemoteProtocolError if the size is wrong."""
    if len(data) != hidden_bytes(num_tokens, hidden_size, precision):
        raise RemoteProtocolError(f"{len(data)} bytes are not {num_tokens} x {hidden_size} values in {precision}")
    match precision:
        case "fp32":
            return np.frombuffer(data, "<f4").reshape(num_tokens, hidden_size)
        case "fp16":
            return np.frombuffer(data, "<f2").astype(np.float32).reshape(num_tokens, hidden_size)
        case "int8":
            return _unpack_int8(data, num_tokens, hidden_size)


def _unpack_int8(data: memoryview, num_tokens: int, hidden_size: int) -> F32:
    num_blocks, num_large = _num_blocks(hidden_size), _num_large(hidden_size)
    floats = np.frombuffer(data, "<f4", num_tokens * (num_large + num_blocks))
    large_TL = floats[: num_tokens * num_large].reshape(num_tokens, num_large)
    scales_TN = floats[num_tokens * num_large :].reshape(num_tokens, num_blocks)
    places = np.frombuffer(data, "<u2", num_tokens * num_large, floats.nbytes)
    codes = np.frombuffer(data, np.int8, offset=floats.nbytes + places.nbytes)
    if places.size and int(places.max()) >= hidden_size:
        raise RemoteProtocolError(f"a large value is not among the {hidden_size} of its row")
    blocks_TNB = codes.reshape(num_tokens, num_blocks, _BLOCK).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a broken scale breaks only its block, as in fp32
        blocks_TNB *= scales_TN[..., np.newaxis]
    x_TD = blocks_TNB.reshape(num_tokens, num_blocks * _BLOCK)[:, :hidden_size]
    np.put_along_axis(x_TD, places.reshape(num_tokens, num_large).astype(np.intp), large_TL, axis=1)
    return x_TD


def _num_large(hidden_size: int) -> int:
    return min(_NUM_LARGE, hidden_size)


def _num_blocks(hidden_size: int) -> int:
    return -(-hidden_size // _BLOCK)


def _blocks(x_TD: F32) -> F32:
    """The blocks of hidden states, [T, N, 64]."""
    num_tokens, hidden_size = x_TD.shape
    num_blocks = _num_blocks(hidden_size)
    if missing := num_blocks * _BLOCK - hidden_size:
        x_TD = np.pad(x_TD, ((0, 0), (0, missing)))
    return x_TD.reshape(num_tokens, num_blocks, _BLOCK)


def _raw(array: npt.NDArray[np.generic]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
