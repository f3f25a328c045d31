"""MXFP4 matrices as gpt-oss's files have them: blocks of 32 in one tensor, their scales in another.

Shapes: E experts, N outputs, G blocks of 32 inputs.
Source: OCP Microscaling Formats 1.0; openai/gpt-oss, gpt_oss/torch/weights.py (even inputs in the low nibbles).
"""

from __future__ import annotations

from collections.abc import Container
from math import prod
from pathlib import Path

import numpy as np

from shoal.arrays import U8
from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.tensor_files import Tensor
from shoal.model.formats.quantization import unpack_nibbles
from shoal.model.weights import BLOCK

_BLOCKS, _SCALES = "_blocks", "_scales"
_BLOCK_BYTES = BLOCK // 2


def is_mxfp4(tensor: str) -> bool:
    """Whether a tensor of this name holds MXFP4 blocks."""
    return tensor.endswith(_BLOCKS)


def scales_of(blocks: str) -> str:
    """Name of the tensor that holds the scales of these blocks."""
    return blocks.removesuffix(_BLOCKS) + _SCALES


def blocks_of(scales: str) -> str:
    """Name of the tensor that holds the blocks of these scales; empty if the name is not that of scales."""
    return scales.removesuffix(_SCALES) + _BLOCKS if scales.endswith(_SCALES) else ""


def blocks_in_place_of(tensor: str, tensors: Container[str]) -> str:
    """Name of the tensor of blocks that a file has instead of this one of floats."""
    return tensor + _BLOCKS if tensor not in tensors and tensor + _BLOCKS in tensors else tensor


def mxfp4_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape [E, N, K] of matrices whose blocks have the shape [E, N, G, 16]; () for another shape."""
    return (*shape[:2], shape[2] * BLOCK) if len(shape) == 4 and shape[3] == _BLOCK_BYTES else ()


def check_mxfp4(where: Path, name: str, blocks: Tensor, scales: Tensor | None) -> None:
    """Raises ModelLoadError if blocks have no scales, or if the size of either does not match its shape."""
    if scales is None:
        raise ModelLoadError(f"{where}: there is no tensor {scales_of(name)!r}")
    for tensor, shape in ((blocks, blocks.shape), (scales, blocks.shape[:-1])):
        if tensor.dtype != "U8" or tensor.shape != shape or tensor.num_bytes != prod(shape):
            raise ModelLoadError(f"{where}: {name} and its scales are not MXFP4 blocks of 32 in bytes")


def mxfp4_rows(blocks: Tensor, scales: Tensor, rows: slice) -> U8:
    """Rows of all matrices, below each other, in GGML's form [rows, G * 17]: a block's scale, then its first 16 values
    in the low nibbles and its last 16 in the high ones."""
    groups = blocks.shape[2]
    blocks_NGB = blocks.items("u1").reshape(-1, groups, _BLOCK_BYTES)[rows]
    scales_NG = scales.items("u1").reshape(-1, groups)[rows]
    values_NGB = unpack_nibbles(blocks_NGB)
    low_NGB, high_NGB = values_NGB[..., :_BLOCK_BYTES], values_NGB[..., _BLOCK_BYTES:]
    packed_NGB = np.concatenate([scales_NG[..., None], low_NGB | (high_NGB << np.uint8(4))], axis=-1)
    return packed_NGB.reshape(len(packed_NGB), -1)
