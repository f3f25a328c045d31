"""What shards tell each other about one row."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.decoder.sampling.candidates import largest
from shoal.model.decoder.sampling.shard_draw import ShardRow, find_logit, gather_largest, gather_numbers
from tests.model.decoder.lockstep import run_ranks

F32 = npt.NDArray[np.float32]


def cut_row(logits_V: F32, cuts: Sequence[int]) -> list[ShardRow]:
    spans = list(zip([0, *cuts], [*cuts, len(logits_V)], strict=True))
    return [
        ShardRow(
            logits_V=logits_V[first:last],
            first_id=first,
            best_id=int(logits_V.argmax()),
            best_logit=logits_V.max(),
            columns_S=tuple(last - first for first, last in spans),
        )
        for first, last in spans
    ]


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=60), st.data())
def test_the_largest_of_all_shards_come_in_order_as_far_as_they_are_certain(
    values: list[int], data: st.DataObject
) -> None:
    values_V = np.array(values, np.float32)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values) - 1), max_size=15)))
    count = data.draw(st.integers(1, 70))
    results, _ = run_ranks([gather_largest(row, row.logits_V, count) for row in cut_row(values_V, cuts)])
    for ids_C, values_C in results:
        assert len(ids_C) >= min(count, len(values))
        assert ids_C.tolist() == largest(values_V, len(ids_C)).tolist()
        np.testing.assert_array_equal(values_C, values_V[ids_C])


def test_more_than_asked_for_is_certain_where_the_best_are_spread() -> None:
    values_V = np.arange(100, dtype=np.float32)[np.argsort(np.arange(100) % 2, kind="stable")]
    results, _ = run_ranks([gather_largest(row, row.logits_V, 10) for row in cut_row(values_V, [50])])
    assert len(results[0][0]) == 19


def test_none_of_the_largest_needs_no_exchange() -> None:
    results, lengths = run_ranks([gather_largest(row, row.logits_V, 0) for row in cut_row(np.ones(4, np.float32), [2])])
    assert [len(ids_C) for ids_C, _ in results] == [0, 0]
    assert lengths == []


@pytest.mark.parametrize("token_id", range(6))
def test_a_logit_comes_from_the_shard_that_has_it(token_id: int) -> None:
    logits_V = np.array([3, 1, 4, 1.5, 9, 2.5], np.float32)
    results, lengths = run_ranks([find_logit(row, token_id) for row in cut_row(logits_V, [1, 4])])
    assert results == [logits_V[token_id]] * 3
    assert lengths == ([] if token_id == 4 else [4]), "every shard knows the best logit"


def test_numbers_come_in_rank_order() -> None:
    results, _ = run_ranks([gather_numbers(number) for number in (0.5, -1.0, 3e300)])
    assert [result.tolist() for result in results] == [[0.5, -1.0, 3e300]] * 3
