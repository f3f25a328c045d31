"""Groups in shared memory whose ranks are threads: numerics, agreement, deadlines."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import NoneType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.comm.groups import shm_group
from shoal.comm.groups.group_memory import CHUNK_BYTES, SLOT_BYTES
from shoal.comm.groups.python_group import PythonCollective
from shoal.comm.groups.shm_group import SharedMemoryGroup, close_group, create_group_memory
from shoal.errors import RemoteProtocolError, WorkerLost
from tests.comm.groups.ranks import run_failing_ranks, run_ranks

_WAIT_S = 60.0
_SHORT_S = 1.0
"""A deadline that is meant to pass, by which the other threads have come on a busy machine."""
_SLOT, _CHUNK = SLOT_BYTES // 4, CHUNK_BYTES // 4
"""floats"""
_AT_ONCE, _IN_SEGMENTS = 1 << 40, -1
"""switch_bytes"""
F32 = npt.NDArray[np.float32]


@pytest.fixture(params=["native", "python"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(shm_group, "Collective", PythonCollective)
    elif shm_group.Collective is PythonCollective:
        pytest.skip("the native extension is not built")
    return request.param


def make_groups(
    size: int, *, switch_bytes: int | None = None, generation: int = 3, sleepers: frozenset[int] = frozenset()
) -> list[SharedMemoryGroup]:
    """`sleepers`: ranks that do not stay awake while they wait."""
    fd = create_group_memory(size)
    try:
        return [
            SharedMemoryGroup(
                fd,
                rank=rank,
                size=size,
                generation=generation,
                switch_bytes=switch_bytes,
                stays_awake=rank not in sleepers,
            )
            for rank in range(size)
        ]
    finally:
        os.close(fd)


def tensor(rank: int, count: int) -> F32:
    """Magnitudes so different that another order of addition gives other bits."""
    rng = np.random.default_rng([rank, count])
    return np.exp(rng.uniform(-12, 12, count)).astype(np.float32) * rng.choice(np.float32([-1, 1]), count)


def sum_in_rank_order(size: int, count: int) -> F32:
    total = tensor(0, count)
    for rank in range(1, size):
        total = total + tensor(rank, count)
    return total


@pytest.mark.parametrize("sleepers", [frozenset({1}), frozenset({0, 1, 2})])
def test_ranks_that_sleep_while_they_wait_get_the_same_sums(sleepers: frozenset[int]) -> None:
    groups = make_groups(3, sleepers=sleepers)

    def all_sums(rank: int) -> list[F32]:
        tensors = [tensor(rank, count) for count in (1, 1000, _SLOT + 1)]
        for x in tensors:
            groups[rank].all_reduce(x, timeout_s=_WAIT_S)
        return tensors

    for sums in run_ranks(3, all_sums):
        for x in sums:
            np.testing.assert_array_equal(x, sum_in_rank_order(3, x.size))


@pytest.mark.parametrize("switch_bytes", [_AT_ONCE, _IN_SEGMENTS])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 16])
def test_sums_are_taken_in_rank_order_on_every_rank(size: int, switch_bytes: int) -> None:
    groups = make_groups(size, switch_bytes=switch_bytes)
    counts = [0, 1, 17, 1000, _CHUNK - 1, _CHUNK, _CHUNK + 1, _SLOT, _SLOT + 1, 2 * _CHUNK + 33]

    def all_sums(rank: int) -> list[F32]:
        tensors = [tensor(rank, count) for count in counts]
        for x in tensors:
            groups[rank].all_reduce(x, timeout_s=_WAIT_S)
        return tensors

    for sums in run_ranks(size, all_sums):
        for count, total in zip(counts, sums, strict=True):
            np.testing.assert_array_equal(total.view(np.uint32), sum_in_rank_order(size, count).view(np.uint32))


def test_the_order_of_addition_can_be_told_from_the_bits() -> None:
    backwards = tensor(2, 1000) + tensor(1, 1000) + tensor(0, 1000)
    assert not np.array_equal(backwards, sum_in_rank_order(3, 1000))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_parts_of_every_size_are_gathered(size: int) -> None:
    groups = make_groups(size)
    sizes = [0, SLOT_BYTES + 1, 1, 2 * SLOT_BYTES, 999][:size]

    def gather(rank: int) -> npt.NDArray[np.uint8]:
        out = np.zeros(sum(sizes), np.uint8)
        ends = np.cumsum(sizes)
        parts = [out[end - count : end] for end, count in zip(ends, sizes, strict=True)]
        parts[rank][:] = rank + 1
        groups[rank].all_gather(parts[rank], parts, timeout_s=_WAIT_S)
        return out

    want = np.repeat(np.arange(1, size + 1, dtype=np.uint8), sizes)
    for out in run_ranks(size, gather):
        np.testing.assert_array_equal(out, want)


def test_parts_of_different_length_are_gathered() -> None:
    groups = make_groups(3)
    payloads = [b"one", b"", bytes(range(256)) * 1000]

    def gather(rank: int) -> list[bytearray]:
        parts = [bytearray(len(payload)) for payload in payloads]
        groups[rank].all_gather(payloads[rank], parts, timeout_s=_WAIT_S)
        return parts

    for got in run_ranks(3, gather):
        assert got == payloads


@pytest.mark.parametrize("num_bytes", [0, 1, SLOT_BYTES, 3 * SLOT_BYTES + 5])
def test_every_rank_can_be_the_root_of_a_broadcast(num_bytes: int) -> None:
    groups = make_groups(3)

    def receive(rank: int) -> list[bytearray]:
        buffers = [bytearray([rank + 1]) * num_bytes for _ in range(3)]
        for root, buffer in enumerate(buffers):
            groups[rank].broadcast(buffer, root=root, timeout_s=_WAIT_S)
        return buffers

    for buffers in run_ranks(3, receive):
        assert buffers == [bytes([root + 1]) * num_bytes for root in range(3)]


def test_a_root_may_send_what_it_cannot_write() -> None:
    groups, target = make_groups(2), bytearray(3)
    run_ranks(2, lambda rank: groups[rank].broadcast(target if rank else b"abc", root=0, timeout_s=_WAIT_S))
    assert target == b"abc"


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(st.tuples(st.sampled_from(["sum", "segments", "gather", "broadcast"]), st.integers(0, 3 * _SLOT)))
)
def test_calls_of_every_kind_follow_each_other(calls: list[tuple[str, int]]) -> None:
    groups = make_groups(3)

    def call(rank: int) -> None:
        for number, (kind, count) in enumerate(calls):
            x = tensor(rank, count)
            match kind:
                case "gather":
                    parts = [np.zeros(count, np.float32) for _ in range(3)]
                    groups[rank].all_gather(x, parts, timeout_s=_WAIT_S)
                    assert all(np.array_equal(part, tensor(peer, count)) for peer, part in enumerate(parts))
                case "broadcast":
                    groups[rank].broadcast(x, root=number % 3, timeout_s=_WAIT_S)
                    assert np.array_equal(x, tensor(number % 3, count))
                case _:
                    groups[rank].switch_bytes = _AT_ONCE if kind == "sum" else _IN_SEGMENTS
                    groups[rank].all_reduce(x, timeout_s=_WAIT_S)
                    assert np.array_equal(x, sum_in_rank_order(3, count))

    run_ranks(3, call)


def _sum(count: int) -> Callable[[SharedMemoryGroup], None]:
    return lambda group: group.all_reduce(np.zeros(count, np.float32), timeout_s=_WAIT_S)


def _broadcast(root: int) -> Callable[[SharedMemoryGroup], None]:
    return lambda group: group.broadcast(bytearray(40), root=root, timeout_s=_WAIT_S)


def _gather(*sizes: int) -> Callable[[SharedMemoryGroup], None]:
    return lambda group: group.all_gather(
        bytes(sizes[group.rank]), [bytearray(size) for size in sizes], timeout_s=_WAIT_S
    )


@pytest.mark.parametrize(
    ("usual", "other", "told"),
    [
        (_sum(10), _sum(11), "rank 2 called SUM_AT_ONCE of 44 bytes in generation 3, this rank SUM_AT_ONCE of 40"),
        (_sum(10), _broadcast(0), "rank 2 called BROADCAST of 40 bytes"),
        (_broadcast(0), _broadcast(1), "BROADCAST"),
        (_gather(40, 40, 40), _gather(40, 40, 41), "GATHER of 121 bytes"),
        (_gather(40, 40, 40), _gather(40, 41, 39), "GATHER of 120 bytes"),
    ],
)
def test_all_ranks_are_told_that_one_called_something_else(
    usual: Callable[[SharedMemoryGroup], None], other: Callable[[SharedMemoryGroup], None], told: str
) -> None:
    groups = make_groups(3)
    errors = run_failing_ranks(3, lambda rank: (other if rank == 2 else usual)(groups[rank]))
    assert [type(error) for error in errors] == [RemoteProtocolError] * 3
    with pytest.raises(RemoteProtocolError, match=told):
        raise errors[0] or AssertionError
    with pytest.raises(WorkerLost, match="closed by this rank"):
        usual(groups[0])


def test_ranks_that_switch_at_different_sizes_are_told() -> None:
    groups = make_groups(2)
    groups[1].switch_bytes = 0
    errors = run_failing_ranks(2, lambda rank: _sum(10)(groups[rank]))
    assert [type(error) for error in errors] == [RemoteProtocolError] * 2


def test_ranks_of_different_generations_are_told() -> None:
    fd = create_group_memory(2)
    groups = [SharedMemoryGroup(fd, rank=rank, size=2, generation=rank + 5) for rank in range(2)]
    os.close(fd)
    errors = run_failing_ranks(2, lambda rank: _sum(10)(groups[rank]))
    assert [type(error) for error in errors] == [RemoteProtocolError] * 2
    assert "generation 6, this rank SUM_AT_ONCE of 40 bytes in generation 5" in str(errors[0])


def test_all_waiting_ranks_name_the_one_that_did_not_come() -> None:
    groups = make_groups(4)

    def wait(rank: int) -> None:
        if rank != 2:
            groups[rank].all_reduce(np.zeros(10, np.float32), timeout_s=_SHORT_S if rank == 3 else _WAIT_S)

    errors = run_failing_ranks(4, wait)
    assert str(errors[3]) == "rank 2 of the group did not come within 1 s"
    assert [str(errors[rank]) for rank in range(2)] == ["rank 2 of the group is gone"] * 2
    _sum(10)(groups[2])  # the others had published their parts before they left
    with pytest.raises(WorkerLost, match=r"rank . of the group is gone"):
        _sum(10)(groups[2])


def test_sums_for_native_code_fail_like_others(implementation: str) -> None:
    groups = make_groups(3)
    sums = [group.native_sum(_SHORT_S) for group in groups]
    if implementation == "python":
        assert sums == [None] * 3
        return

    def wait(rank: int) -> None:
        add_up = sums[rank]
        assert add_up is not None
        if rank != 2:
            add_up(np.zeros(10, np.float32))

    errors = run_failing_ranks(3, wait)
    assert [type(error) for error in errors] == [WorkerLost, WorkerLost, NoneType]
    said = {"rank 2 of the group is gone", "rank 2 of the group did not come within 1 s"}
    assert "rank 2 of the group did not come within 1 s" in {str(error) for error in errors[:2]} <= said
    assert sums[0] is not None
    assert sums[0].take_wait_s() > 0.0
    with pytest.raises(WorkerLost, match="closed by this rank, 0"):
        groups[0].all_reduce(np.zeros(10, np.float32), timeout_s=_WAIT_S)


def test_a_deadline_that_has_passed_does_not_stop_what_is_complete() -> None:
    groups = make_groups(2)
    with pytest.raises(WorkerLost, match="rank 1"):
        groups[0].all_reduce(np.zeros(10, np.float32), timeout_s=0.0)
    x = np.ones(10, np.float32)
    groups[1].all_reduce(x, timeout_s=0.0)  # rank 0 had published its part before it left
    assert x.sum() == 10


@pytest.mark.parametrize("closing", [0, 1])
def test_closing_ends_a_wait(closing: int) -> None:
    groups = make_groups(2)

    def run(task: int) -> None:
        if task == 0:
            _sum(10)(groups[0])
        else:
            groups[closing].close()
            groups[closing].close()

    errors = run_failing_ranks(2, run)
    with pytest.raises(WorkerLost, match="closed by this rank" if closing == 0 else "rank 1 of the group is gone"):
        raise errors[0] or AssertionError
    assert errors[1] is None


@pytest.mark.parametrize("x", [np.zeros(4), np.zeros((4, 4), np.float32)[:, 1], np.frombuffer(bytes(8), np.float32)])
def test_only_writable_contiguous_float32_is_summed(x: F32) -> None:
    groups = make_groups(2)
    with pytest.raises(ValueError, match=r"C-contiguous|read-only|float32"):
        groups[0].all_reduce(x, timeout_s=_WAIT_S)
    run_ranks(2, lambda rank: _sum(10)(groups[rank]))


def test_buffers_that_do_not_fit_are_refused_before_anything_happens() -> None:
    groups = make_groups(2)
    for out in ([bytearray(3)], [bytearray(4), bytearray(3)]):
        with pytest.raises(ValueError, match="its part's size"):
            groups[0].all_gather(bytes(3), out, timeout_s=_WAIT_S)
    with pytest.raises(BufferError):
        groups[0].all_gather(bytes(3), [bytes(3), bytes(3)], timeout_s=_WAIT_S)
    with pytest.raises(BufferError):
        groups[0].broadcast(bytes(3), root=1, timeout_s=_WAIT_S)
    with pytest.raises(ValueError, match="root"):
        groups[0].broadcast(bytes(3), root=2, timeout_s=_WAIT_S)
    run_ranks(2, lambda rank: _sum(10)(groups[rank]))


def test_memory_that_does_not_fit_is_refused() -> None:
    fd = create_group_memory(2)
    for rank, size, told in [(0, 3, "not the memory of a group of 3"), (2, 2, "rank 2"), (0, 17, "1 to 16 ranks")]:
        with pytest.raises(ValueError, match=told):
            SharedMemoryGroup(fd, rank=rank, size=size, generation=1)
    first = SharedMemoryGroup(fd, rank=0, size=2, generation=1)
    with pytest.raises(ValueError, match="rank 0 has joined"):
        SharedMemoryGroup(fd, rank=0, size=2, generation=1)
    os.close(fd)
    assert (first.rank, first.size) == (0, 2)


@pytest.mark.parametrize("size", [0, 17])
def test_a_group_has_1_to_16_ranks(size: int) -> None:
    with pytest.raises(ValueError, match="1 to 16 ranks"):
        create_group_memory(size)


@pytest.mark.parametrize("switch_bytes", [_AT_ONCE, _IN_SEGMENTS])
def test_both_versions_have_the_same_layout(implementation: str, switch_bytes: int) -> None:
    if implementation == "python":
        pytest.skip("one of the two ranks is native")
    kinds = [shm_group.Collective, PythonCollective]
    fd = create_group_memory(2)
    ends = [kind(fd, rank, 2, 1) for rank, kind in enumerate(kinds)]
    os.close(fd)

    def reduce(rank: int) -> F32:
        x = tensor(rank, 3 * _SLOT + 5)
        assert ends[rank].all_reduce(x, switch_bytes == _IN_SEGMENTS, _WAIT_S) is None
        assert ends[rank].all_gather(bytes(9), [bytearray(9), bytearray(9)], _WAIT_S) is None
        return x

    for x in run_ranks(2, reduce):
        np.testing.assert_array_equal(x, sum_in_rank_order(2, 3 * _SLOT + 5))


def test_closing_a_group_from_outside_ends_the_wait_for_a_rank_that_never_joined() -> None:
    fd = create_group_memory(2)
    try:
        group = SharedMemoryGroup(fd, rank=0, size=2, generation=3)

        def run(task: int) -> None:
            if task == 0:
                _sum(10)(group)
            else:
                close_group(fd, 2)

        errors = run_failing_ranks(2, run)
        assert isinstance(errors[0], WorkerLost)
        assert errors[1] is None
        with pytest.raises(ValueError, match="joined"):
            SharedMemoryGroup(fd, rank=1, size=2, generation=3)
    finally:
        os.close(fd)
