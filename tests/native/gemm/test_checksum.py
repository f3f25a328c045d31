"""The checksum notices every change of a word, and every other length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.model.attention.paged_attention import native_available

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")
SEVERAL_CHUNKS = (2 << 20) + 777


def checksum(data: np.ndarray, num_threads: int = 1) -> int:
    from shoal import _native

    return _native.checksum(_native.ThreadPool(num_threads), data)


def content(num_bytes: int) -> np.ndarray:
    return np.random.default_rng(num_bytes).integers(0, 256, num_bytes, dtype=np.uint8)


@pytest.mark.parametrize("num_bytes", [1, 63, 64, 200])
def test_every_single_bit_counts(num_bytes: int) -> None:
    data = content(num_bytes)
    sums = {checksum(data)}
    for bit in range(8 * num_bytes):
        data[bit // 8] ^= 1 << bit % 8
        sums.add(checksum(data))
        data[bit // 8] ^= 1 << bit % 8
    assert len(sums) == 8 * num_bytes + 1


@settings(max_examples=50, deadline=None)
@given(at=st.integers(0, SEVERAL_CHUNKS - 1), bit=st.integers(0, 7))
def test_a_bit_of_several_chunks_counts(at: int, bit: int) -> None:
    data = content(SEVERAL_CHUNKS)
    before = checksum(data)
    data[at] ^= 1 << bit
    assert checksum(data) != before


@pytest.mark.parametrize("num_bytes", [0, 1, 64, 65, SEVERAL_CHUNKS])
def test_length_counts_whatever_is_cut_off_or_added(num_bytes: int) -> None:
    data = np.zeros(num_bytes + 64, np.uint8)
    sums = {checksum(data[: num_bytes + more]) for more in range(65)}
    assert len(sums) == 65


def test_order_counts() -> None:
    words = content(4 << 20).reshape(4, -1)
    assert checksum(words[[1, 0, 2, 3]].reshape(-1)) != checksum(words.reshape(-1))
    words = content(128).reshape(16, 8)
    assert checksum(words[::-1].reshape(-1).copy()) != checksum(words.reshape(-1))


@pytest.mark.parametrize("num_bytes", [100, SEVERAL_CHUNKS])
def test_threads_do_not_count(num_bytes: int) -> None:
    data = content(num_bytes)
    assert checksum(data, 4) == checksum(data, 1)
