"""What is found in rows of logits, by NumPy and by the native extension, against double precision.

TOLERANCE, of the logarithm of a sum of exponentials, each of them within 2e-7 and as much again where they are added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.arrays import F32
from shoal.model.decoder.sampling.look_over import Found, LookOver, NativeLookOver, look_over
from shoal.protocol.language_messages import SampleRow, Sampling

_native = pytest.importorskip("shoal._native")
NAMES = ["numpy", *_native.supported_isas()]
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def looks() -> dict[str, LookOver]:
    return {"numpy": look_over} | {name: NativeLookOver(_native.ThreadPool(3), name) for name in NAMES[1:]}


def row_of(*, allowed: bytes = b"", first_time: int = 0, num_top: int | None = None) -> SampleRow:
    sampling = Sampling(temperature=0.0, num_logprobs=num_top, first_timestamp=first_time)
    return SampleRow(row=0, token_index=0, sampling=sampling, allowed=allowed)


def left_of(logits_V: F32, row: SampleRow) -> np.ndarray:
    """The logits that may be drawn, in double precision, by the rules as they are written down."""
    left_V = logits_V.astype(np.float64)
    if row.allowed:
        bits = np.unpackbits(np.frombuffer(row.allowed, np.uint8), bitorder="little")[: len(left_V)]
        left_V[np.flatnonzero(np.pad(bits, (0, len(left_V) - len(bits))) == 0)] = -np.inf
    first = row.sampling.first_timestamp
    if first and np.exp(left_V[first:]).sum() > np.exp(left_V[:first]).max(initial=0.0):
        left_V[:first] = -np.inf
    return left_V


def check(found: Found, left_V: np.ndarray, num_top: int | None) -> None:
    assert found.best == int(left_V.argmax())
    if num_top is None:
        return
    assert found.log_sum == pytest.approx(np.log(np.exp(left_V - left_V.max()).sum()), abs=TOLERANCE)
    assert found.top_ids == np.argsort(-left_V, kind="stable")[:num_top].tolist()


def some_rows(rng: np.random.Generator, num_tokens: int, spread: float) -> tuple[F32, list[SampleRow]]:
    """Up to five rows, with and without masks, times and log-probabilities."""
    logits_RV = (rng.standard_normal((rng.integers(1, 6), num_tokens)) * spread).astype(np.float32)
    rows: list[SampleRow] = []
    for _ in logits_RV:
        bits = rng.random(rng.integers(1, num_tokens + 9)) < rng.choice([0.01, 0.5, 0.99])
        bits[0] = True
        mask = np.packbits(bits, bitorder="little").tobytes() if rng.random() < 0.5 else b""
        num_top = (None, 0, 1, 6, 64, 65, 6000)[rng.integers(7)]
        rows.append(row_of(allowed=mask, first_time=int(rng.integers(0, num_tokens + 2)), num_top=num_top))
    return logits_RV, rows


@given(
    seed=st.integers(0, 2**32),
    num_tokens=st.sampled_from([1, 7, 16, 100, 255, 257, 1500, 5000]),
    spread=st.sampled_from([0.1, 3.0, 20.0]),
    is_round=st.booleans(),
)
def test_rows_are_looked_over(
    looks: dict[str, LookOver], seed: int, num_tokens: int, spread: float, is_round: bool
) -> None:
    logits_RV, rows = some_rows(np.random.default_rng(seed), num_tokens, spread)
    logits_RV = logits_RV.round() if is_round else logits_RV  # with many equal ones
    results: list[tuple[list[Found], bytes]] = []
    for look in looks.values():
        own_RV = logits_RV.copy()
        results.append((look([*own_RV], rows), own_RV.tobytes()))
        for found, logits_V, left_V, row in zip(results[-1][0], logits_RV, own_RV, rows, strict=True):
            check(found, left_of(logits_V, row), row.sampling.num_logprobs)
            np.testing.assert_array_equal(left_V, left_of(logits_V, row).astype(np.float32))
    assert all(result == results[1] for result in results[2:])  # the bits of sums do not depend on the set


@pytest.mark.parametrize("name", NAMES)
def test_times_come_before_words_that_are_less_likely_than_all_of_them(looks: dict[str, LookOver], name: str) -> None:
    """Four times weigh 4 e together: more than a word of 1 + log 4 - 0.01, less than one of 1 + log 4 + 0.01."""
    edge = 1.0 + float(np.log(4.0))
    logits_RV = np.array([[edge + more, 0.0, 1.0, 1.0, 1.0, 1.0] for more in (-0.01, 0.01)], np.float32)
    found = looks[name]([*logits_RV], [row_of(first_time=2, num_top=2)] * 2)
    assert [one.best for one in found] == [2, 0]
    assert [one.top_ids for one in found] == [[2, 3], [0, 2]]
    assert logits_RV[:, :2].tolist() == [[-np.inf, -np.inf], [logits_RV[1, 0], 0.0]]


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_is_no_number_is_found_last(looks: dict[str, LookOver], name: str) -> None:
    logits_RV = np.array([[np.nan, 1.0, np.nan, 2.0]] * 2, np.float32)
    found = looks[name]([*logits_RV], [row_of(num_top=2), row_of()])
    assert (found[0].top_ids, found[0].best, found[1].best) == ([3, 1], 3, 3)


def test_what_does_not_fit_is_refused() -> None:
    pool, row, ints = _native.ThreadPool(1), np.zeros(8, np.float32), np.zeros(1, np.int32)

    def ask(
        *,
        logits: Sequence[np.ndarray] = (row,),
        first_times: np.ndarray = ints,
        num_top: np.ndarray = ints,
        allowed: Sequence[bytes] = (b"",),
    ) -> None:
        found = np.empty(1, np.int64), np.empty(1), np.empty((1, 4), np.int32), np.empty((1, 4), np.float32)
        _native.look_over(pool, logits, allowed, first_times, num_top, "", *found)

    ask()
    for number in (-1, 9):
        with pytest.raises(ValueError, match="times begin within"):
            ask(first_times=np.array([number], np.int32))
    for number in (-2, 5):
        with pytest.raises(ValueError, match="no more is found"):
            ask(num_top=np.array([number], np.int32))
    with pytest.raises(ValueError, match="every row must have"):
        ask(allowed=())
    with pytest.raises(ValueError, match="there must be rows"):
        ask(logits=())
    with pytest.raises(TypeError):
        ask(logits=(row.astype(np.float64),))
