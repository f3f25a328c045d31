"""Tensors through shared memory between two ends in one process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.comm.links.arena import FreeList, ReceivingArena, SendingArena, create_arena_memory
from shoal.comm.links.socket_link import SocketLink
from shoal.comm.links.tensor_link import TensorLink
from shoal.comm.links.tensor_port import SharedPort
from shoal.errors import CapacityError, LocalProtocolError, RemoteProtocolError
from shoal.protocol.graph_messages import BatchDone, Envelope, Release, RunBatch, TensorRef
from shoal.protocol.tensor_codec import decode_envelope, encode_envelope, from_bytes
from shoal.protocol.worker_messages import Generation

MESSAGE = RunBatch(batch_id=7, generation=Generation(0))
DONE = BatchDone(batch_id=7, generation=Generation(0), compute_s=0.5)


@pytest.fixture
def ends() -> Iterator[tuple[TensorLink, TensorLink, SendingArena]]:
    """A sender, its receiver, and the sender's arena. Only sender -> receiver carries tensors."""
    ours, theirs = socket.socketpair()
    memory = create_arena_memory(1 << 20)
    arena = SendingArena(memory)
    sender = TensorLink(SocketLink(ours), SharedPort(outgoing=arena, incoming=None))
    receiver = TensorLink(SocketLink(theirs), SharedPort(outgoing=None, incoming=ReceivingArena(memory)))
    os.close(memory)
    yield sender, receiver, arena
    sender.close()
    receiver.close()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(5, dtype=np.int64),
        np.zeros((0, 4), np.float16),
        np.array([[True, False]]),
        np.arange(8, dtype=np.int32).reshape(2, 4).T,
        np.array([1.5, -2], dtype=ml_dtypes.bfloat16),
        np.array([["", "schön"], ["a\0b", "x" * 300]], dtype=object),
        np.array([1 + 2j], np.complex64),
        np.array([np.nan, np.inf], np.float64),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_every_kind_of_tensor_arrives_as_it_was(ends, array: np.ndarray) -> None:
    sender, receiver, _ = ends
    sender.send(MESSAGE, {"first": np.ones(3, np.uint8), "x": array}, timeout_s=1.0)
    received = receiver.receive(timeout_s=1.0)
    assert received is not None
    assert received.message == MESSAGE
    assert received.tensors["x"].dtype == array.dtype
    np.testing.assert_array_equal(received.tensors["x"], array)


def test_tensors_are_read_in_place_and_cannot_be_written(ends) -> None:
    sender, receiver, _ = ends
    sender.send(MESSAGE, {"x": np.arange(4.0)}, timeout_s=1.0)
    received = receiver.receive(timeout_s=1.0)
    assert received is not None
    assert not received.tensors["x"].flags.writeable
    assert received.tensors["x"].ctypes.data % 64 == 0


def test_memory_comes_back_with_the_next_message_or_a_flush(ends) -> None:
    sender, receiver, arena = ends
    half = np.zeros(1 << 19, np.uint8)
    for answer in (True, False):
        sender.send(MESSAGE, {"x": half}, timeout_s=1.0)
        sender.send(MESSAGE, {"x": half}, timeout_s=1.0)
        with pytest.raises(CapacityError):
            sender.send(MESSAGE, {"x": half}, timeout_s=1.0)
        for _ in range(2):
            received = receiver.receive(timeout_s=1.0)
            assert received is not None
            receiver.release(received)
        if answer:
            receiver.send(DONE, timeout_s=1.0)
            returned = sender.receive(timeout_s=1.0)
            assert returned is not None
            assert returned.message == DONE
        else:
            receiver.flush_releases(timeout_s=1.0)
            sender.collect_releases()
        offset, _ = arena.allocate(1 << 20)
        arena.free(offset)


def test_memory_given_back_twice_is_refused(ends) -> None:
    sender, receiver, _ = ends
    sender.send(MESSAGE, {"x": np.zeros(4)}, timeout_s=1.0)
    received = receiver.receive(timeout_s=1.0)
    assert received is not None
    receiver.release(received)
    receiver.release(received)
    receiver.flush_releases(timeout_s=1.0)
    with pytest.raises(RemoteProtocolError, match="not in use"):
        sender.collect_releases()


def test_a_direction_without_memory_carries_no_tensors(ends) -> None:
    _, receiver, _ = ends
    with pytest.raises(LocalProtocolError):
        receiver.send(MESSAGE, {"x": np.zeros(1)}, timeout_s=1.0)


def ref(**changes: object) -> TensorRef:
    return TensorRef(**({"name": "x", "dtype": "float32", "shape": (2,), "offset": 0, "num_bytes": 8} | changes))


@pytest.mark.parametrize("shape", [(0, 1 << 62), (1 << 62, 0), (1 << 30, 0, 1 << 30)])
@pytest.mark.parametrize("dtype", ["float32", "string"])
def test_an_empty_tensor_of_sizes_that_numpy_cannot_multiply_is_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(RemoteProtocolError, match="impossible shape"):
        from_bytes(memoryview(b""), ref(shape=shape, dtype=dtype, num_bytes=0))


@pytest.mark.parametrize(
    "bad",
    [
        {"dtype": "object"},
        {"dtype": "no_such"},
        {"dtype": "finfo"},
        {"shape": (-1,)},
        {"shape": (3,)},
        {"shape": (1 << 62, 1 << 62)},
        {"shape": (1,) * 65},
        {"dtype": "string"},
    ],
)
def test_a_ref_that_cannot_be_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        from_bytes(memoryview(b"\xff" * 8), ref(**bad))


@pytest.mark.parametrize(("offset", "num_bytes"), [(-64, 8), (1 << 20, 8), (0, (1 << 20) + 8), (0, -8)])
def test_a_ref_outside_the_arena_is_refused(ends, offset: int, num_bytes: int) -> None:
    memory = create_arena_memory(1 << 20)
    arena = ReceivingArena(memory)
    os.close(memory)
    with pytest.raises(RemoteProtocolError, match="outside"):
        arena.view(offset, num_bytes)


@given(st.binary(max_size=60))
def test_no_bytes_but_an_envelope_decode(data: bytes) -> None:
    try:
        frame = encode_envelope(decode_envelope(data))
    except RemoteProtocolError:
        return
    assert encode_envelope(decode_envelope(frame)) == frame


def test_an_envelope_survives_the_wire() -> None:
    envelope = Envelope(message=Release(token=3), tensors=(ref(),), token=5, releases=(1, 2))
    assert decode_envelope(encode_envelope(envelope)) == envelope


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 9)), max_size=60))
def test_ranges_never_overlap_and_all_come_back(steps: list[tuple[int, int]]) -> None:
    """`steps`: allocate so many bytes, then free the n-th of those held (if there is one)."""
    ranges = FreeList(4096)
    held: list[tuple[int, int]] = []
    for num_bytes, victim in steps:
        try:
            offset = ranges.allocate(num_bytes)
        except CapacityError:
            assert sum(size for _, size in held) + num_bytes > 1024
        else:
            assert all(offset + max(1, num_bytes) <= other or other + size <= offset for other, size in held)
            held.append((offset, max(64, -(-num_bytes // 64) * 64)))
        if victim < len(held):
            ranges.free(held.pop(victim)[0])
    for offset, _ in held:
        ranges.free(offset)
    assert ranges.is_empty
    assert ranges.allocate(4096) == 0


def test_a_large_empty_arena_gives_its_pages_back() -> None:
    memory = create_arena_memory(1 << 30)
    arena = SendingArena(memory)
    offset, view = arena.allocate(200 << 20)
    view[100 << 20] = 1
    view[0] = 1
    before = os.fstat(memory).st_blocks
    del view
    arena.free(offset)
    assert os.fstat(memory).st_blocks < before
    os.close(memory)
