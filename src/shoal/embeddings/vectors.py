"""Shortening of vectors for clients."""

from __future__ import annotations

import numpy as np

from shoal.arrays import F32
from shoal.errors import InvalidRequest
from shoal.model.encoder.pooling import normalized


def shortened(vectors_NH: F32, dimensions: int) -> F32:
    """The first `dimensions` numbers of each vector, scaled to its former norm.

    Source: Matryoshka representations, arXiv 2205.13147; OpenAI API reference, `dimensions`.

    Raises InvalidRequest if vectors have fewer numbers.
    """
    width = vectors_NH.shape[1]
    if dimensions > width:
        raise InvalidRequest(
            f"this model's vectors have {width} numbers, which is fewer than {dimensions}", "dimensions"
        )
    lengths_N1 = np.sqrt((vectors_NH * vectors_NH).sum(-1, keepdims=True))
    return normalized(vectors_NH[:, :dimensions]) * lengths_N1
