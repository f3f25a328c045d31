"""The native kernel of every instruction set here, and NumPy, against dense softmax attention in float64.

Tolerance: fp32 sums of up to 256 products and a 7th-degree exponential; errors of 1e-6 times values of size 1 to 4.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.model.attention.interface import Attention, AttentionShape
from shoal.model.attention.kv_storage import KvType
from shoal.model.attention.paged_attention import (
    NativeAttention,
    NumpyAttention,
    make_attention,
    native_available,
)
from tests.model.attention.attention_cases import Case, Runner, dense_answer, make_case

TOLERANCE = 2e-5

if native_available():
    from shoal import _native

    IMPLEMENTATIONS = ["numpy", *_native.supported_isas()]
else:
    IMPLEMENTATIONS = ["numpy"]

every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)
needs_native = pytest.mark.skipif(not native_available(), reason="the native extension is not built")


def attention_for(case: Case, name: str, num_threads: int = 1) -> Attention:
    if name == "numpy":
        return NumpyAttention(case.num_blocks, case.block_size, case.max_context)
    return NativeAttention(num_threads, case.num_blocks, case.block_size, case.max_context, isa=name)


def shape_of(num_heads: int = 4, num_kv_heads: int = 2, head_dim: int = 16, **changes: float) -> AttentionShape:
    values = {"rotary_dim": head_dim, "scale": head_dim**-0.5, **changes}
    return AttentionShape(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, **values)  # type: ignore[arg-type]


shapes = st.builds(
    lambda kv, group, dim, rotary, window, softcap: shape_of(
        kv * group, kv, dim, rotary_dim=min(rotary, dim - dim % 2), window=window, softcap=softcap
    ),
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from([2, 7, 8, 12, 16, 24, 40, 64, 80, 96, 100]),
    st.sampled_from([0, 4, 10, 16, 96]),
    st.sampled_from([0, 1, 5, 16, 33, 200]),
    st.sampled_from([0.0, 0.0, 2.0, 50.0]),
)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=shapes,
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    block_size=st.sampled_from([16, 32, 48]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_equals_dense_attention(
    name: str, shape: AttentionShape, lengths: list[int], block_size: int, threads: int, seed: int
) -> None:
    case = make_case(shape, tuple(lengths), block_size=block_size, seed=seed)
    runner = Runner(case, attention_for(case, name, threads))
    for got, want in zip(runner.run_chunked(np.random.default_rng(seed)), dense_answer(case), strict=True):
        np.testing.assert_allclose(got, want, atol=TOLERANCE, rtol=TOLERANCE)


@every_implementation
@pytest.mark.parametrize("head_dim", [12, 100, 128, 256])
def test_heads_of_every_size(name: str, head_dim: int) -> None:
    case = make_case(shape_of(6, 2, head_dim), (150,))
    (got,) = Runner(case, attention_for(case, name)).run([(0, 0, 150)])
    np.testing.assert_allclose(got, dense_answer(case)[0], atol=TOLERANCE)


@every_implementation
def test_chunked_prefill_equals_whole_prefill(name: str) -> None:
    case = make_case(shape_of(9, 3, 64), (300,))
    (whole,) = Runner(case, attention_for(case, name)).run([(0, 0, 300)])
    runner = Runner(case, attention_for(case, name))
    chunks = [runner.run([(0, first, min(300, first + 77))])[0] for first in range(0, 300, 77)]
    np.testing.assert_allclose(np.concatenate(chunks), whole, atol=TOLERANCE)


@every_implementation
def test_decode_rows_beside_a_prefill_chunk(name: str) -> None:
    case = make_case(shape_of(6, 2, 32), (200, 130, 90))
    runner = Runner(case, attention_for(case, name))
    runner.run([(0, 0, 199), (1, 0, 129)])
    got = runner.run([(0, 199, 200), (2, 0, 90), (1, 129, 130)])
    want = dense_answer(case)
    np.testing.assert_allclose(got[0], want[0][199:], atol=TOLERANCE)
    np.testing.assert_allclose(got[1], want[2], atol=TOLERANCE)
    np.testing.assert_allclose(got[2], want[1][129:], atol=TOLERANCE)


@every_implementation
def test_large_scores_do_not_overflow(name: str) -> None:
    case = make_case(shape_of(scale=1.0), (150,), magnitude=12.0)
    (got,) = Runner(case, attention_for(case, name)).run([(0, 0, 150)])
    want = dense_answer(case)[0]
    np.testing.assert_allclose(got, want, atol=12.0 * 500 * 1e-6, rtol=1e-3)  # fp32 scores of size 500


@every_implementation
def test_sequence_without_rows_is_left_alone(name: str) -> None:
    case = make_case(shape_of(), (40, 40))
    runner = Runner(case, attention_for(case, name))
    runner.run([(0, 0, 39), (1, 0, 40)])
    got = runner.run([(1, 40, 40), (0, 39, 40)])
    assert got[0].shape[0] == 0
    np.testing.assert_allclose(got[1], dense_answer(case)[0][39:], atol=TOLERANCE)


@needs_native
def test_two_callers_share_one_pool() -> None:
    case = make_case(shape_of(8, 4, 64), (600,))
    attention = attention_for(case, "", 2)
    runners = [Runner(case, attention) for _ in range(3)]
    want = dense_answer(case)[0]
    results: list[np.ndarray] = []
    callers = [threading.Thread(target=lambda r=r: results.extend(r.run([(0, 0, 600)]))) for r in runners]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 3
    for got in results:
        np.testing.assert_allclose(got, want, atol=TOLERANCE)


@every_implementation
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("magnitude", [1.0, 40000.0])  # the largest do not fit into fp16: they become infinite
def test_caches_are_the_same_as_numpys(name: str, dtype: KvType, magnitude: float) -> None:
    case = make_case(shape_of(4, 2, 25, rotary_dim=10), (50, 17), magnitude=magnitude)
    runner, reference = (Runner(case, attention_for(case, which), dtype) for which in (name, "numpy"))
    with np.errstate(invalid="ignore"):
        for each in (runner, reference):
            each.run([(0, 0, 50), (1, 0, 17)])
    np.testing.assert_array_equal(runner.keys, reference.keys)
    np.testing.assert_array_equal(runner.values, reference.values)


@every_implementation
@pytest.mark.parametrize("head_dim", [7, 64, 100])
def test_half_precision_cache(name: str, head_dim: int) -> None:
    case = make_case(shape_of(6, 2, head_dim, rotary_dim=head_dim // 2 * 2), (600, 70))
    got = Runner(case, attention_for(case, name), np.float16).run_chunked(np.random.default_rng(0))
    want = Runner(case, attention_for(case, "numpy"), np.float16).run([(0, 0, 600), (1, 0, 70)])
    for rows, same, exact in zip(got, want, dense_answer(case), strict=True):
        np.testing.assert_allclose(rows, same, atol=TOLERANCE)  # the same halves, only fp32 sums differ
        np.testing.assert_allclose(rows, exact, atol=5e-3)  # values of size 4 are rounded by 4 / 2**12, scores likewise


@every_implementation
@pytest.mark.parametrize(("window", "in_chunks"), [(0, False), (700, False), (600, True)])
def test_contexts_of_many_segments(name: str, window: int, in_chunks: bool) -> None:
    case = make_case(shape_of(3, 1, 8, window=window, in_chunks=in_chunks), (1700,), magnitude=2.0)
    (got,) = Runner(case, attention_for(case, name, 3)).run([(0, 0, 1700)])
    np.testing.assert_allclose(got, dense_answer(case)[0], atol=2 * TOLERANCE)  # values of twice the size


@every_implementation
@pytest.mark.parametrize("num_threads", [1, 3])
def test_rows_that_see_their_whole_context(name: str, num_threads: int) -> None:
    case = make_case(shape_of(4, 2, 16, sees_all=True), (700, 50, 1), magnitude=2.0)
    got = Runner(case, attention_for(case, name, num_threads)).run([(0, 0, 700), (1, 0, 50), (2, 0, 1)])
    for rows, want in zip(got, dense_answer(case), strict=True):
        np.testing.assert_allclose(rows, want, atol=2 * TOLERANCE)


GOOD = {
    "positions": [3, 4, 0],
    "query_starts": [0, 2, 3],
    "context_lens": [5, 1],
    "block_tables": [[2, -1], [0, -1]],
}


@every_implementation
@pytest.mark.parametrize(
    "broken",
    [
        {"positions": [3, 5, 0]},
        {"positions": [-1, 0, 0]},
        {"positions": [3, 4]},
        {"positions": [[3, 4, 0]]},
        {"query_starts": [0, 2]},
        {"query_starts": [0, 3, 2]},
        {"query_starts": [1, 2, 3]},
        {"query_starts": [0, 2, 4]},
        {"query_starts": [0, -5, 3]},
        {"query_starts": []},
        {"context_lens": [5]},
        {"context_lens": [5, 0]},
        {"context_lens": [21, 1], "positions": [19, 20, 0]},
        {"context_lens": [2**31 - 1, 1], "positions": [2**31 - 3, 2**31 - 2, 0]},
        {"context_lens": [-1, 1]},
        {"block_tables": [[-1, -1], [0, -1]]},
        {"block_tables": [[4, -1], [0, -1]]},
        {"block_tables": [[2, -1]]},
        {"block_tables": [2, 0]},
        {"context_lens": [17, 1], "positions": [15, 16, 0]},
        {"context_lens": [17, 1], "positions": [15, 16, 0], "block_tables": [[2], [0]]},
    ],
)
def test_malformed_steps_are_refused(name: str, broken: dict[str, list[int]]) -> None:
    case = Case(
        shape=shape_of(),
        block_size=16,
        num_blocks=4,
        max_context=20,
        sequences=(),
        tables=(),
        cos=np.ones((20, 8), np.float32),
        sin=np.zeros((20, 8), np.float32),
    )
    attention = attention_for(case, name)
    good = {key: np.array(value, np.int32) for key, value in GOOD.items()}
    assert attention.step(**good).num_tokens == 3
    assert attention.step(**good).num_sequences == 2
    with pytest.raises(ValueError, match=r"."):
        attention.step(**(good | {key: np.array(value, np.int32) for key, value in broken.items()}))


@every_implementation
def test_metadata_of_a_wrong_type_is_refused(name: str) -> None:
    case = make_case(shape_of(), (20,))
    good = {key: np.array(value, np.int32) for key, value in GOOD.items()}
    with pytest.raises(TypeError):
        attention_for(case, name).step(**(good | {"positions": np.array([3, 4, 0], np.int64)}))


@every_implementation
def test_calls_that_do_not_fit_are_refused(name: str) -> None:
    case = make_case(shape_of(), (20,))
    attention = attention_for(case, name)
    runner = Runner(case, attention)
    rows = np.zeros((1, case.shape.qkv_width), np.float32)
    out = np.zeros((1, case.shape.out_width), np.float32)
    one_row = {
        "positions": np.zeros(1, np.int32),
        "query_starts": np.array([0, 1], np.int32),
        "context_lens": np.ones(1, np.int32),
        "block_tables": np.zeros((1, 1), np.int32),
    }
    step = attention.step(**one_row)
    runner.layer.run(rows, out, step)
    for wrong_qkv, wrong_out in (
        (rows[:, :-1].copy(), out),
        (rows, out[:, :-1].copy()),
        (rows[:0], out),
        (rows, out[0]),
    ):
        with pytest.raises(ValueError, match=r"must be"):
            runner.layer.run(wrong_qkv, wrong_out, step)
    for wrong_qkv, wrong_out in ((rows.astype(np.float64), out), (rows, out.astype(np.float64))):
        with pytest.raises(TypeError):
            runner.layer.run(wrong_qkv, wrong_out, step)
    other = make_case(shape_of(), (40,))
    with pytest.raises(ValueError, match="another number of blocks"):
        runner.layer.run(rows, out, attention_for(other, name).step(**one_row))


@every_implementation
@pytest.mark.parametrize(
    "changes",
    [{"num_heads": 3}, {"num_kv_heads": 0}, {"rotary_dim": 3}, {"rotary_dim": 18}, {"window": -1}, {"softcap": -1.0}],
)
def test_impossible_layers_are_refused(name: str, changes: dict[str, int]) -> None:
    case = make_case(shape_of(), (20,))
    runner = Runner(case, attention_for(case, name))
    with pytest.raises(ValueError, match=r"."):
        runner.attention.layer(shape_of(**changes), runner.keys, runner.values, case.cos, case.sin)


@every_implementation
def test_layer_refuses_arrays_of_another_shape(name: str) -> None:
    case = make_case(shape_of(), (20,))
    runner = Runner(case, attention_for(case, name))
    for keys, values, cos, sin in (
        (runner.keys[:, :1].copy(), runner.values, case.cos, case.sin),
        (runner.keys, runner.values[:-1], case.cos, case.sin),
        (runner.keys, runner.values, case.cos[:, :-1].copy(), case.sin),
        (runner.keys, runner.values, case.cos, case.sin[:-1]),
    ):
        with pytest.raises(ValueError, match=r"must be"):
            runner.attention.layer(case.shape, keys, values, cos, sin)


@every_implementation
def test_layer_refuses_caches_of_other_types(name: str) -> None:
    case = make_case(shape_of(), (20,))
    runner = Runner(case, attention_for(case, name))
    half = runner.values.astype(np.float16)
    for keys, values in ((runner.keys, half), (runner.keys.astype(np.float64), runner.values.astype(np.float64))):
        with pytest.raises(TypeError, match=r"must both be|incompatible"):
            runner.attention.layer(case.shape, keys, values, case.cos, case.sin)  # type: ignore[arg-type]


def test_make_attention_chooses() -> None:
    sizes = {"num_threads": 1, "num_blocks": 4, "block_size": 16, "max_context": 64}
    assert make_attention(**sizes).is_native == native_available()
    assert not make_attention(**sizes, native=False).is_native
    for name in sizes:
        with pytest.raises(ValueError, match="must be positive"):
            make_attention(**(sizes | {name: 0}))
