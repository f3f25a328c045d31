"""Rows of an embedding in every format are the rows that the whole matrix widens to."""

import numpy as np
import pytest

from shoal.model.decoder.embedding import Embedding
from shoal.model.formats.quantization import dequantize, quantize_rows
from shoal.model.weights import DenseWeight, Weight

VALUES = np.random.default_rng(0).standard_normal((40, 64), dtype=np.float32)
WEIGHTS: dict[str, Weight] = {
    "fp32": DenseWeight(values_NK=VALUES),
    "8 bits": quantize_rows(VALUES, 8),
    "4 bits": quantize_rows(VALUES, 4),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_rows_are_those_of_the_widened_matrix(kind: str, scale: float) -> None:
    ids = np.array([39, 0, 7, 7], np.int32)
    rows = Embedding(WEIGHTS[kind], scale).rows(ids)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, dequantize(WEIGHTS[kind])[ids] * scale, rtol=1e-6)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("token_id", [-1, 40])
def test_ids_outside_the_vocabulary_are_refused(kind: str, token_id: int) -> None:
    with pytest.raises(ValueError, match="vocabulary of 40"):
        Embedding(WEIGHTS[kind], 1.0).rows(np.array([3, token_id], np.int32))
