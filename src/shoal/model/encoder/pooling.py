"""Turns vectors of tokens into vectors of texts.

Shapes: B texts, S tokens of the longest, H hidden size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32
from shoal.model.encoder.sentence_settings import PoolingMode

_SMALLEST = 1e-12
"""Smallest length by which a vector is divided. Source: PyTorch, `torch.nn.functional.normalize`."""


def pool(tokens_BSH: F32, mask_BS: npt.NDArray[np.int64], mode: PoolingMode) -> F32:
    """One vector [B, H] for each text; `mask_BS` is 1 for tokens and 0 for padding after them."""
    weights_BS1 = mask_BS[:, :, None].astype(np.float32)
    match mode:
        case "cls":
            return tokens_BSH[:, 0]
        case "mean":
            return (tokens_BSH * weights_BS1).sum(1) / np.maximum(weights_BS1.sum(1), np.float32(1e-9))
        case "max":
            return np.where(weights_BS1 > 0, tokens_BSH, np.float32(-np.inf)).max(1)
        case "last":
            return tokens_BSH[np.arange(len(tokens_BSH)), mask_BS.sum(1) - 1]


def normalized(vectors_BH: F32) -> F32:
    """The vectors scaled to length 1."""
    lengths_B1 = np.sqrt((vectors_BH * vectors_BH).sum(-1, keepdims=True))
    return vectors_BH / np.maximum(lengths_B1, np.float32(_SMALLEST))
