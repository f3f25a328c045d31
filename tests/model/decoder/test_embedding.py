"""Rows of an embedding in every format are the rows that the whole matrix widens to."""

import dataclasses

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


def row_slice(weight: Weight, first: int, last: int) -> Weight:
    arrays = {
        field.name: value[first:last]
        for field in dataclasses.fields(weight)
        if isinstance(value := getattr(weight, field.name), np.ndarray)
    }
    return dataclasses.replace(weight, **arrays)


def shards(kind: str, scale: float, cuts: list[int]) -> list[Embedding]:
    spans = zip([0, *cuts], [*cuts, 40], strict=True)
    return [Embedding(row_slice(WEIGHTS[kind], *span), scale, span[0], 40) for span in spans]


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


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("cuts", [[], [20], [1, 39], [5, 6, 7, 30]], ids=repr)
def test_the_sum_over_the_shards_is_the_embedding_bit_for_bit(kind: str, cuts: list[int]) -> None:
    ids = np.array([39, 0, 7, 7, 6, 5, 38, 1], np.int32)
    rows = [shard.rows(ids) for shard in shards(kind, 8.0, cuts)]
    np.testing.assert_array_equal(sum(rows), Embedding(WEIGHTS[kind], 8.0).rows(ids))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_shard_that_owns_none_of_the_tokens_gives_zeros(kind: str) -> None:
    first, last = shards(kind, 2.0, [20])
    np.testing.assert_array_equal(last.rows(np.array([0, 19], np.int32)), np.zeros((2, 64), np.float32))
    np.testing.assert_array_equal(first.rows(np.array([20, 39], np.int32)), np.zeros((2, 64), np.float32))


@pytest.mark.parametrize("token_id", [-1, 40])
def test_every_shard_refuses_ids_outside_the_whole_vocabulary(token_id: int) -> None:
    for shard in shards("4 bits", 1.0, [10, 30]):
        with pytest.raises(ValueError, match="vocabulary of 40"):
            shard.rows(np.array([3, token_id], np.int32))
