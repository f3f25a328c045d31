"""Matrices of random quantized weights, block by block as GGUF files hold them.

Every weight is a scale times a uniform whole number, less an offset where the format has one, so that a row's product
with a vector of unit entries has about unit variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

_SUB_SCALE = 32
"""Scale of every sub-block, and of its offset, in the formats that have sub-blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where a block's scale lies and what its random bits mean. Source: the block_* structures in ggml-common.h."""

    spread: float
    """standard deviation of the whole number that uniform bits stand for"""
    scale_at: int = 0
    """first byte of the half-precision scale"""
    offset_at: int | None = None
    """first byte of the half-precision offset; None: the format has none"""
    mean: float = 0.0
    """of the whole number; the offset takes it away"""
    sub_scales: tuple[int, bytes] = (0, b"")
    """first byte and bytes of the sub-blocks' scales, all equal to `_SUB_SCALE`"""


_LAYOUTS = {
    GGMLQuantizationType.Q4_0: _Layout(spread=4.61),
    GGMLQuantizationType.Q5_0: _Layout(spread=9.23),
    GGMLQuantizationType.Q8_0: _Layout(spread=73.9),
    GGMLQuantizationType.Q4_K: _Layout(
        spread=4.61, mean=7.5, offset_at=2, sub_scales=(4, bytes([0xA0] * 8 + [0x00] * 4))
    ),
    GGMLQuantizationType.Q6_K: _Layout(spread=18.47, scale_at=208, sub_scales=(192, bytes([_SUB_SCALE] * 16))),
}


def random_blocks(
    kind: GGMLQuantizationType, rng: np.random.Generator, rows: int, columns: int
) -> npt.NDArray[np.uint8]:
    """The bytes of a matrix, row by row. The columns must be whole blocks."""
    block_len, num_bytes = GGML_QUANT_SIZES[kind]
    layout = _LAYOUTS[kind]
    blocks = rng.integers(0, 256, (rows, columns // block_len, num_bytes), np.uint8)
    start, sub_scales = layout.sub_scales
    blocks[:, :, start : start + len(sub_scales)] = np.frombuffer(sub_scales, np.uint8)
    scale = 1 / (layout.spread * (_SUB_SCALE if sub_scales else 1) * columns**0.5)
    blocks[:, :, layout.scale_at : layout.scale_at + 2] = _half(scale)
    if layout.offset_at is not None:
        blocks[:, :, layout.offset_at : layout.offset_at + 2] = _half(layout.mean * scale)
    return blocks.reshape(rows, -1)


def _half(value: float) -> npt.NDArray[np.uint8]:
    return np.array([value], np.float16).view(np.uint8)
