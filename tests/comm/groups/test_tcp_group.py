"""The TCP group: right sums, the same bits everywhere, and an error on every rank when one is gone or astray."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from shoal.arrays import F32
from shoal.comm.groups.tcp_exchange import Exchange
from shoal.comm.groups.tcp_group import TcpGroup
from shoal.comm.groups.tcp_message import HEADER, Header, Operation
from shoal.errors import RemoteProtocolError, WorkerLost
from tests.comm.groups.tcp_ranks import WAIT_S, all_outcomes, connected, tcp_groups, tcp_pair, together

_SHORT_S = 0.2
"""A deadline that is meant to pass."""
_ONE_SHOT = 1 << 40


def _parts(size: int, num_floats: int) -> list[F32]:
    rng = np.random.default_rng(size * 1000 + num_floats)
    scales = rng.choice([1e-4, 1.0, 1e4], (size, num_floats))  # so that another order gives other bits
    return list((rng.standard_normal((size, num_floats)) * scales).astype(np.float32))


def _sum_in_rank_order(parts: list[F32]) -> F32:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def _all_reduce(group: TcpGroup, x: F32, timeout_s: float = WAIT_S) -> F32:
    summed = x.copy()
    group.all_reduce(summed, timeout_s=timeout_s)
    return summed


def _close(groups: list[TcpGroup]) -> None:
    for group in groups:
        group.close()


@pytest.mark.parametrize("switch_bytes", [0, _ONE_SHOT], ids=["segments", "one-shot"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 16])
def test_sums_are_in_rank_order_on_every_rank(size: int, switch_bytes: int) -> None:
    groups = tcp_groups(size, switch_bytes=switch_bytes)
    for num_floats in (0, 1, size - 1, size + 1, 1000, 40_003):
        parts = _parts(size, num_floats)
        sums = together([partial(_all_reduce, *pair) for pair in zip(groups, parts, strict=True)])
        for summed in sums:
            np.testing.assert_array_equal(summed, _sum_in_rank_order(parts))
    _close(groups)


@pytest.mark.parametrize(("num_floats", "operation", "num_bytes"), [(8, Operation.SUM, 32), (9, Operation.SEGMENT, 16)])
def test_the_switch_separates_the_two_ways(num_floats: int, operation: Operation, num_bytes: int) -> None:
    near, far = tcp_pair()
    group = TcpGroup({1: near}, rank=0, size=2, generation=1, switch_bytes=32)
    with far:
        with pytest.raises(WorkerLost):
            group.all_reduce(np.ones(num_floats, np.float32), timeout_s=0.0)
        header = Header.unpack(memoryview(far.recv(HEADER.size)))
    assert (header.operation, header.num_bytes) == (operation, num_bytes)
    group.close()


@pytest.mark.parametrize("switch_bytes", [0, _ONE_SHOT], ids=["segments", "one-shot"])
def test_tensors_larger_than_all_socket_buffers_meet_on_the_way(switch_bytes: int) -> None:
    groups = tcp_groups(2, switch_bytes=switch_bytes)
    x = np.ones(4 << 20, np.float32)
    for summed in together([partial(_all_reduce, group, x) for group in groups]):
        assert (summed == 2.0).all()
    _close(groups)


def test_a_tensor_of_several_dimensions_is_summed_in_place() -> None:
    groups = tcp_groups(2)
    tensors = [np.full((3, 4), rank + 1.0, np.float32) for rank in range(2)]
    together([partial(group.all_reduce, x, timeout_s=WAIT_S) for group, x in zip(groups, tensors, strict=True)])
    assert all((x == 3.0).all() for x in tensors)
    _close(groups)


@pytest.mark.parametrize(
    "x", [np.zeros((4, 4), np.float32)[:, ::2], np.zeros(4, np.float64), np.frombuffer(bytes(8), np.float32)]
)
def test_what_cannot_be_summed_in_place_is_refused(x: F32) -> None:
    (group,) = tcp_groups(1)
    with pytest.raises(ValueError, match="contiguous"):
        group.all_reduce(x, timeout_s=WAIT_S)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_of_different_length_are_gathered(size: int) -> None:
    groups = tcp_groups(size)
    payloads = [bytes([rank]) * (rank * 70_000) for rank in range(size)]  # the first is empty

    def gather(rank: int) -> list[bytearray]:
        parts = [bytearray(len(payload)) for payload in payloads]
        groups[rank].all_gather(payloads[rank], parts, timeout_s=WAIT_S)
        return parts

    assert together([partial(gather, rank) for rank in range(size)]) == [payloads] * size
    _close(groups)


def test_buffers_that_do_not_fit_the_part_are_refused() -> None:
    groups = tcp_groups(2)
    with pytest.raises(ValueError, match="4 bytes of rank 0"):
        groups[0].all_gather(bytes(4), [bytearray(5), bytearray(4)], timeout_s=WAIT_S)
    with pytest.raises(ValueError, match="1 buffers"):
        groups[0].all_gather(bytes(4), [bytearray(4)], timeout_s=WAIT_S)
    _close(groups)


@pytest.mark.parametrize("num_bytes", [0, 10, 1 << 20])
def test_every_rank_can_be_the_root(num_bytes: int) -> None:
    groups = tcp_groups(3)
    for root in range(3):
        buffers = [bytearray([rank]) * num_bytes for rank in range(3)]
        calls = [
            partial(group.broadcast, buffer, root=root, timeout_s=WAIT_S)
            for group, buffer in zip(groups, buffers, strict=True)
        ]
        together(calls)
        assert buffers == [bytearray([root]) * num_bytes] * 3
    with pytest.raises(ValueError, match="no rank 3"):
        groups[0].broadcast(bytearray(1), root=3, timeout_s=WAIT_S)
    _close(groups)


def test_a_late_peer_is_waited_for() -> None:
    peers = connected(2)
    groups = [TcpGroup(peers[rank], rank=rank, size=2, generation=1) for rank in range(2)]
    x = np.ones(4, np.float32)

    def late() -> F32:
        assert select.select([peers[1][0]], [], [], WAIT_S)[0], "rank 0 sends before rank 1 comes"
        return _all_reduce(groups[1], x)

    assert [summed.tolist() for summed in together([lambda: _all_reduce(groups[0], x), late])] == [[2.0] * 4] * 2
    _close(groups)


def test_a_rank_that_is_ahead_does_not_disturb() -> None:
    groups = tcp_groups(3)

    def several(group: TcpGroup) -> list[float]:
        data = np.array([group.rank], np.float32)
        group.broadcast(data.data, root=0, timeout_s=WAIT_S)  # rank 0 goes on at once
        return [float(_all_reduce(group, data + number)[0]) for number in range(50)]

    assert together([partial(several, group) for group in groups]) == [[3.0 * number for number in range(50)]] * 3
    _close(groups)


Call = Callable[[TcpGroup], object]


def _sum_of(num_floats: int) -> Call:
    return lambda group: group.all_reduce(np.zeros(num_floats, np.float32), timeout_s=WAIT_S)


@pytest.mark.parametrize(
    "astray",
    [
        _sum_of(5),
        _sum_of(100_000),
        lambda group: group.broadcast(bytearray(16), root=0, timeout_s=WAIT_S),
        lambda group: group.all_gather(bytes(16), [bytearray(16)] * 3, timeout_s=WAIT_S),
    ],
    ids=["another size", "another way", "a broadcast", "a gather"],
)
def test_a_rank_that_does_something_else_is_an_error_everywhere(astray: Call) -> None:
    groups = tcp_groups(3)
    calls: list[Call] = [_sum_of(4), _sum_of(4), astray]
    outcomes = all_outcomes([partial(call, group) for call, group in zip(calls, groups, strict=True)])
    assert [type(outcome) for outcome in outcomes] == [RemoteProtocolError] * 3
    _close(groups)


def test_another_generation_is_refused() -> None:
    peers = connected(2)
    groups = [TcpGroup(peers[rank], rank=rank, size=2, generation=rank + 1) for rank in range(2)]
    outcomes = all_outcomes([partial(_sum_of(4), group) for group in groups])
    assert [type(outcome) for outcome in outcomes] == [RemoteProtocolError] * 2
    assert "generation 2" in str(outcomes[0])
    _close(groups)


def test_a_rank_that_has_left_is_named_on_every_survivor() -> None:
    groups = tcp_groups(3)
    groups[2].close()
    outcomes = all_outcomes([partial(_sum_of(4), group) for group in groups])
    assert [type(outcome) for outcome in outcomes] == [WorkerLost] * 3
    assert all("rank 2" in str(outcome) for outcome in outcomes[:2])
    assert "closed by this rank" in str(outcomes[2])
    _close(groups)


def test_who_waits_for_a_survivor_hears_from_it_who_is_lost() -> None:
    peers = connected(3)
    exchanges = [Exchange(peers[rank], rank=rank, generation=1) for rank in range(3)]
    exchanges[2].close()

    def wait_for(rank: int, other: int) -> None:
        target = {other: memoryview(bytearray(8))}
        exchanges[rank].run(Operation.BROADCAST, {}, target, deadline_s=float("inf"))

    outcomes = all_outcomes([partial(wait_for, 0, 2), partial(wait_for, 1, 0)])
    assert str(outcomes[1]) == "rank 2 is lost, says rank 0"
    assert "rank 2 has left" in str(outcomes[0])
    for exchange in exchanges:
        exchange.close()


def test_the_last_words_of_a_rank_are_heard_after_its_connection_broke() -> None:
    near, far = tcp_pair()
    near.sendall(b"never read, so that closing the other end resets the connection")
    far.sendall(HEADER.pack(1, 1, 0, Operation.LOST, 2))
    assert select.select([far], [], [], WAIT_S)[0]
    far.close()
    exchange = Exchange({1: near}, rank=0, generation=1)
    with pytest.raises(WorkerLost, match="rank 2 is lost, says rank 1"):
        exchange.run(Operation.SUM, {1: memoryview(b"x")}, {1: memoryview(bytearray(1))}, deadline_s=float("inf"))
    exchange.close()


@pytest.mark.parametrize(
    ("num_floats", "timeout_s"), [(4, 2.0), (4 << 20, 5.0)], ids=["small", "larger than the buffers"]
)
def test_a_silent_rank_is_named_when_the_deadline_passes(num_floats: int, timeout_s: float) -> None:
    """Those who take part have to be done with each other by then, or they name each other."""
    groups, x = tcp_groups(3), np.zeros(num_floats, np.float32)
    outcomes = all_outcomes([partial(_all_reduce, group, x, timeout_s) for group in groups[:2]])
    assert [type(outcome) for outcome in outcomes] == [WorkerLost] * 2
    assert all("rank 2" in str(outcome) for outcome in outcomes)
    _close(groups)


def test_a_peer_that_takes_no_bytes_is_named_when_the_deadline_passes() -> None:
    groups = tcp_groups(2)
    with pytest.raises(WorkerLost, match="rank 1 did not take its bytes"):
        groups[0].broadcast(bytearray(16 << 20), root=0, timeout_s=_SHORT_S)
    _close(groups)


def test_a_group_that_failed_fails_again() -> None:
    groups = tcp_groups(2)
    for _ in range(2):
        with pytest.raises(WorkerLost, match="rank 1 did not come"):
            groups[0].all_reduce(np.zeros(1, np.float32), timeout_s=0.0)
    groups[1].close()
    with pytest.raises(WorkerLost, match="rank 1 did not come"):
        groups[0].all_reduce(np.zeros(1, np.float32), timeout_s=WAIT_S)
    _close(groups)


def test_after_an_interrupted_call_the_group_is_of_no_more_use() -> None:
    class Interrupted(socket.socket):
        def recv_into(self, *_: object) -> int:  # type: ignore[override]
            raise KeyboardInterrupt

    near, far = tcp_pair()
    groups = [
        TcpGroup({1: Interrupted(fileno=near.detach())}, rank=0, size=2, generation=1),
        TcpGroup({0: far}, rank=1, size=2, generation=1),
    ]
    with pytest.raises(KeyboardInterrupt):
        groups[0].all_reduce(np.zeros(1, np.float32), timeout_s=WAIT_S)
    with pytest.raises(WorkerLost, match="interrupted"):
        groups[0].all_reduce(np.zeros(1, np.float32), timeout_s=WAIT_S)
    groups[1].all_reduce(np.zeros(1, np.float32), timeout_s=WAIT_S)  # rank 0 had sent its part
    with pytest.raises(WorkerLost, match="rank 0 has left"):
        groups[1].all_reduce(np.zeros(1, np.float32), timeout_s=WAIT_S)
    _close(groups)


def test_a_group_needs_a_connection_to_every_other_rank() -> None:
    near, far = tcp_pair()
    with near, far, pytest.raises(ValueError, match="rank 0 of 3"):
        TcpGroup({1: near}, rank=0, size=3, generation=1)
