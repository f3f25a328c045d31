"""Attention over keys and values in codes of 8 bits: against dense attention in float64 over the same codes, and the
same bits on every instruction set, in any company, with any number of threads.

Tolerance: a weight is rounded to 1 / 32767 of the largest, whose value is up to 7: over 600 keys that has a standard
deviation of 5e-4.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.model.attention.interface import AttentionShape, AttentionVectors
from shoal.model.attention.paged_attention import NativeAttention, native_available
from tests.model.attention.attention_cases import F32, Case, Runner, dense_answer, make_case

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")

if native_available():
    from shoal import _native

    ISAS = _native.supported_isas()
else:
    ISAS = []

TOLERANCE = 4e-3
SHAPE = AttentionShape(num_heads=6, num_kv_heads=3, head_dim=64, rotary_dim=0, scale=0.125, sees_all=True)
every_isa = pytest.mark.parametrize("isa", ISAS)

cases = st.builds(
    lambda heads, group, dim, lengths, size, seed: make_case(
        replace(SHAPE, num_heads=heads * group, num_kv_heads=heads, head_dim=dim, scale=dim**-0.5),
        tuple(lengths),
        block_size=size,
        seed=seed,
        magnitude=1.5,
    ),
    st.integers(1, 2),
    st.sampled_from([1, 2, 5, 9]),
    st.sampled_from([16, 32, 48, 64, 80, 112]),
    st.lists(st.one_of(st.integers(1, 70), st.integers(510, 600)), min_size=1, max_size=2),
    st.sampled_from([16, 48, 608]),
    st.integers(0, 1000),
)


def runner_for(case: Case, *, isa: str = "", num_threads: int = 1) -> Runner:
    attention = NativeAttention(num_threads, case.num_blocks, case.block_size, case.max_context, isa=isa)
    return Runner(case, attention, np.uint8)


def whole(case: Case, *, isa: str = "", num_threads: int = 1) -> list[F32]:
    """All sequences in one step."""
    runner = runner_for(case, isa=isa, num_threads=num_threads)
    return runner.run([(s, 0, len(rows)) for s, rows in enumerate(case.sequences)])


def in_codes(case: Case) -> Case:
    """The case with every head of queries, keys and values rounded to 127 steps of its largest value, in fp32: what
    lies between two steps must fall to the same."""
    scales_H1 = np.ones((case.shape.qkv_width // case.shape.head_dim, 1), np.float32)
    scales_H1[: case.shape.num_heads] = case.shape.scale

    def rounded(rows: F32) -> F32:
        heads = rows.reshape(len(rows), -1, case.shape.head_dim) * scales_H1
        largest = np.abs(heads).max(-1, keepdims=True)
        codes = np.rint(heads * (np.float32(127) / largest))
        return (codes * (largest / np.float32(127)) / scales_H1).reshape(rows.shape)

    return replace(case, sequences=tuple(map(rounded, case.sequences)))


def assert_same_bits(got: list[F32], want: list[F32]) -> None:
    for rows, others in zip(got, want, strict=True):
        assert not np.isnan(rows).any()
        np.testing.assert_array_equal(rows.view(np.uint32), others.view(np.uint32))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases, threads=st.integers(1, 3))
def test_equals_dense_attention_over_the_same_codes(case: Case, threads: int) -> None:
    got = whole(case, num_threads=threads)
    for rows, want in zip(got, dense_answer(in_codes(case)), strict=True):
        np.testing.assert_allclose(rows, want, atol=TOLERANCE)
    for isa in ISAS[1:]:
        assert_same_bits(whole(case, isa=isa), got)


def test_rows_are_close_to_those_without_codes() -> None:
    case = make_case(SHAPE, (600,))
    got, want = whole(case)[0], dense_answer(case)[0]
    assert np.linalg.norm(got - want) < 0.02 * np.linalg.norm(want)


@every_isa
def test_company_does_not_matter(isa: str) -> None:
    """Some rows alone, and beside those of another sequence: over what is in the cache."""
    case = make_case(SHAPE, (700, 90), block_size=48)
    runner = runner_for(case, isa=isa, num_threads=2)
    want = runner.run([(0, 0, 700), (1, 0, 90)])
    assert_same_bits(runner.run([(1, 0, 90)]), want[1:])
    for first in (699, 695, 640):
        got = runner.run([(0, first, 700), (1, 50, 90)])
        assert_same_bits(got, [want[0][first:], want[1][50:]])


@every_isa
def test_what_lies_behind_the_context_does_not_matter(isa: str) -> None:
    """A block that another sequence has filled before."""
    case = make_case(SHAPE, (130, 40), block_size=160, seed=1)
    want = whole(case, isa=isa)
    reused = replace(case, tables=(case.tables[0], case.tables[0]))
    runner = runner_for(reused, isa=isa)
    runner.run([(0, 0, 130)])
    assert_same_bits(runner.run([(1, 0, 40)]), want[1:])


@every_isa
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_value_that_is_no_number_spoils_what_sees_it(isa: str, bad: float) -> None:
    case = make_case(SHAPE, (200, 30))
    want = whole(case, isa=isa)
    case.sequences[0][150] = bad
    got = whole(case, isa=isa)
    assert np.isnan(got[0]).all()
    assert_same_bits(got[1:], want[1:])


@pytest.mark.parametrize(
    "changes",
    [{"sees_all": False}, {"softcap": 5.0}, {"head_dim": 24, "num_heads": 3}],
    ids=["rows see what is before them", "a softcap", "heads of 24"],
)
def test_layers_that_cannot_have_codes_are_refused(changes: dict[str, int]) -> None:
    case = make_case(replace(SHAPE, **changes), (20,))
    with pytest.raises(ValueError, match="whole context"):
        runner_for(case)


def test_codes_without_scales_are_refused() -> None:
    case = make_case(SHAPE, (20,))
    runner = runner_for(case)
    for wrong in ({}, {"key_scales": np.zeros((1, 1, 16), np.float32), "value_scales": np.zeros(16, np.float32)}):
        with pytest.raises(ValueError, match="scales"):
            runner.attention.layer(SHAPE, runner.keys, runner.values, case.cos, case.sin, AttentionVectors(**wrong))
