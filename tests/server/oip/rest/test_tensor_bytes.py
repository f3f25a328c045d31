"""What the clients cannot see: copies and alignment."""

from __future__ import annotations

import numpy as np

from shoal.server.oip.tensor_bytes import array_from_bytes


def place(first: int) -> memoryview:
    """Two floats at an address that is `first` past a multiple of four."""
    buffer = np.zeros(16, np.uint8)
    start = (first - buffer.ctypes.data) % 4
    buffer[start : start + 8] = np.array([1.5, -2.0], np.float32).view(np.uint8)
    return memoryview(buffer)[start : start + 8]


def test_aligned_data_is_not_copied() -> None:
    raw = place(0)
    array = array_from_bytes("x", "FP32", [2], raw)
    assert np.shares_memory(array, np.frombuffer(raw, np.uint8))


def test_data_that_is_not_aligned_is_copied_to_where_it_is() -> None:
    array = array_from_bytes("x", "FP32", [1, 2], place(1))
    assert array.flags.aligned
    assert array.tolist() == [[1.5, -2.0]]


def test_any_byte_but_zero_is_true() -> None:
    array = array_from_bytes("x", "BOOL", [3], b"\0\2\1")
    assert array.dtype == np.bool_
    assert array.view(np.uint8).tolist() == [0, 1, 1]
