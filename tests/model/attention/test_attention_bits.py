"""The native kernel's bits depend on the row and its context alone: not on the company, the chunks in which a prompt is
computed, the threads or the instruction set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.model.attention.interface import AttentionShape
from shoal.model.attention.kv_storage import KvType
from shoal.model.attention.paged_attention import NativeAttention, native_available
from tests.model.attention.attention_cases import F32, Case, Runner, make_case

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")

if native_available():
    from shoal import _native

    ISAS = _native.supported_isas()
else:
    ISAS = []

both_types = pytest.mark.parametrize("dtype", [np.float32, np.float16])
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])

shapes = st.builds(
    lambda kv, group, dim, rotary, window, softcap: AttentionShape(
        num_heads=kv * group,
        num_kv_heads=kv,
        head_dim=dim,
        rotary_dim=min(rotary, dim - dim % 2),
        scale=dim**-0.5,
        window=window,
        softcap=softcap,
    ),
    st.integers(1, 2),
    st.integers(1, 9),
    st.sampled_from([1, 7, 16, 20, 64, 100]),
    st.sampled_from([0, 4, 10, 64]),
    st.sampled_from([0, 1, 5, 33, 130, 700]),
    st.sampled_from([0.0, 0.0, 2.0, 50.0]),
)
lengths = st.lists(st.one_of(st.integers(1, 70), st.integers(500, 1100)), min_size=1, max_size=3)
dtypes = st.sampled_from([np.float32, np.float16])


def runner_for(case: Case, dtype: KvType, *, isa: str = "", num_threads: int = 1) -> Runner:
    attention = NativeAttention(num_threads, case.num_blocks, case.block_size, case.max_context, isa=isa)
    return Runner(case, attention, dtype)


def whole(case: Case, dtype: KvType, *, isa: str = "", num_threads: int = 1) -> list[F32]:
    """All sequences in one step."""
    runner = runner_for(case, dtype, isa=isa, num_threads=num_threads)
    return runner.run([(s, 0, len(rows)) for s, rows in enumerate(case.sequences)])


def assert_same_bits(got: list[F32], want: list[F32]) -> None:
    for rows, others in zip(got, want, strict=True):
        assert not np.isnan(rows).any()
        np.testing.assert_array_equal(rows.view(np.uint32), others.view(np.uint32))


@few
@given(shape=shapes, lengths=lengths, dtype=dtypes, seed=st.integers(0, 1000))
def test_every_instruction_set(shape: AttentionShape, lengths: list[int], dtype: KvType, seed: int) -> None:
    case = make_case(shape, tuple(lengths), seed=seed)
    want = whole(case, dtype)
    for isa in ISAS[1:]:
        assert_same_bits(whole(case, dtype, isa=isa), want)


@few
@given(shape=shapes, lengths=lengths, dtype=dtypes, size=st.sampled_from([16, 48, 128]), seed=st.integers(0, 1000))
def test_chunks_and_company(shape: AttentionShape, lengths: list[int], dtype: KvType, size: int, seed: int) -> None:
    case = make_case(shape, tuple(lengths), block_size=size, seed=seed)
    got = runner_for(case, dtype, num_threads=2).run_chunked(np.random.default_rng(seed))
    assert_same_bits(got, whole(case, dtype))


@both_types
def test_one_row_at_a_time(dtype: KvType) -> None:
    shape = AttentionShape(num_heads=6, num_kv_heads=2, head_dim=20, rotary_dim=20, scale=0.2, window=140)
    case = make_case(shape, (400,))
    runner = runner_for(case, dtype)
    rows = [runner.run([(0, position, position + 1)])[0] for position in range(400)]
    assert_same_bits([np.concatenate(rows)], whole(case, dtype))


@both_types
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_out_a_prompt(dtype: KvType, threads: int) -> None:
    shape = AttentionShape(num_heads=8, num_kv_heads=4, head_dim=64, rotary_dim=64, scale=0.125)
    case = make_case(shape, (700, 300, 5))
    want = whole(case, dtype)
    runner = runner_for(case, dtype, num_threads=threads)
    for _ in range(20):
        assert_same_bits(runner.run([(0, 0, 700), (1, 0, 300), (2, 0, 5)]), want)


@both_types
@pytest.mark.parametrize("window", [0, 1900])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_out_the_context_of_one_row(dtype: KvType, window: int, threads: int) -> None:
    shape = AttentionShape(num_heads=3, num_kv_heads=1, head_dim=64, rotary_dim=64, scale=0.3, window=window)
    case = make_case(shape, (3000, 20))
    want = whole(case, dtype)
    runner = runner_for(case, dtype, num_threads=threads)
    runner.run([(0, 0, 2990), (1, 0, 19)])
    for _ in range(20):
        got = runner.run([(0, 2990, 3000), (1, 19, 20)])
        assert_same_bits(got, [want[0][2990:], want[1][19:]])


@pytest.mark.parametrize("isa", ISAS)
@both_types
@pytest.mark.parametrize("window", [0, 3, 150])
def test_what_a_row_does_not_see_adds_nothing(isa: str, dtype: KvType, window: int) -> None:
    """Not even where it is infinite or not a number, in the same tile and chunk."""
    shape = AttentionShape(num_heads=4, num_kv_heads=2, head_dim=20, rotary_dim=20, scale=0.2, window=window)
    case = make_case(shape, (640,))
    bad = (133, 300, 639)
    want = whole(case, dtype, isa=isa)[0]
    for row, value in zip(bad, itertools.cycle([np.inf, np.nan])):
        case.sequences[0][row] = value
    (got,) = whole(case, dtype, isa=isa)
    reach = window or 640
    clean = [p for p in range(640) if not any(row <= p < row + reach for row in bad)]
    assert len(clean) > 100
    assert_same_bits([got[clean]], [want[clean]])
