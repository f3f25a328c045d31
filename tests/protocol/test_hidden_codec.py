"""Hidden states at the precisions of a link: how large they are, and how far from what was sent."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.errors import RemoteProtocolError
from shoal.protocol.hidden_codec import LINK_PRECISIONS, LinkPrecision, hidden_bytes, pack_hidden, unpack_hidden

SHAPES = [(0, 64), (1, 1), (3, 64), (7, 100), (5, 576)]


def pack(x_TD: np.ndarray, precision: LinkPrecision) -> bytes:
    return b"".join(map(bytes, pack_hidden(x_TD, precision)))


def make_hidden(shape: tuple[int, int]) -> np.ndarray:
    """With an outlier in each row, as decoders have them."""
    x_TD = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x_TD[:, 0] *= 1000
    return x_TD


@pytest.mark.parametrize("precision", LINK_PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_comes_is_near_what_was_sent(shape: tuple[int, int], precision: LinkPrecision) -> None:
    x_TD = make_hidden(shape)
    data = pack(x_TD, precision)
    assert len(data) == hidden_bytes(*shape, precision)
    came_TD = unpack_hidden(memoryview(data), *shape, precision)
    assert (came_TD.shape, came_TD.dtype) == (shape, np.float32)
    for start in range(0, shape[1], 64):
        block = x_TD[:, start : start + 64]
        largest = np.abs(block).max(axis=1, keepdims=True, initial=0.0)
        allowed = {"fp32": 0.0 * largest, "fp16": np.abs(block) * 2.0**-11, "int8": largest / 127 * 0.501}[precision]
        assert (np.abs(came_TD[:, start : start + 64] - block) <= allowed + 1e-12 * (precision == "int8")).all()


def test_smaller_ones_take_less() -> None:
    sizes = [hidden_bytes(16, 576, precision) for precision in LINK_PRECISIONS]
    assert sizes[1] / sizes[0] == 1 / 2
    assert sizes[2] / sizes[0] == pytest.approx((9 * 68 + 8 * 6) / (4 * 576))


def test_large_values_come_as_they_are_and_cost_the_others_nothing() -> None:
    x_TD = np.random.default_rng(0).standard_normal((3, 576), np.float32)
    quiet_TD = unpack_hidden(memoryview(pack(x_TD, "int8")), 3, 576, "int8")
    x_TD[:, 70] = 20000.0
    loud_TD = unpack_hidden(memoryview(pack(x_TD, "int8")), 3, 576, "int8")
    assert (loud_TD[:, 70] == 20000.0).all()
    error, quiet_error = (np.abs(np.delete(one - x_TD, 70, axis=1)).max() for one in (loud_TD, quiet_TD))
    assert error < 1.2 * quiet_error


def test_a_place_outside_the_row_is_refused() -> None:
    data = bytearray(pack(make_hidden((1, 64)), "int8"))
    data[8 * 4 + 4 : 8 * 4 + 4 + 2] = b"\xff\xff"
    with pytest.raises(RemoteProtocolError, match="not among the 64"):
        unpack_hidden(memoryview(data), 1, 64, "int8")


def test_zeros_stay_zeros() -> None:
    zeros = np.zeros((2, 70), np.float32)
    for precision in LINK_PRECISIONS:
        np.testing.assert_array_equal(unpack_hidden(memoryview(pack(zeros, precision)), 2, 70, precision), zeros)


def test_fp16_clips_what_it_cannot_hold() -> None:
    x_TD = np.array([[1e6, -1e6, 1.0]], np.float32)
    came_TD = unpack_hidden(memoryview(pack(x_TD, "fp16")), 1, 3, "fp16")
    np.testing.assert_array_equal(came_TD, np.array([[65504, -65504, 1]], np.float32))


@pytest.mark.parametrize("precision", LINK_PRECISIONS)
def test_another_number_of_bytes_is_refused(precision: LinkPrecision) -> None:
    data = pack(make_hidden((2, 70)), precision)
    for broken in (data[:-1], data + b"\0", b""):
        with pytest.raises(RemoteProtocolError):
            unpack_hidden(memoryview(broken), 2, 70, precision)
