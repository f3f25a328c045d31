"""The switch between the two ways to sum: what is decided from the timings, and that all ranks decide alike."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from typing_extensions import Buffer

from shoal.arrays import F32
from shoal.comm.groups.shm_group import SharedMemoryGroup, create_group_memory
from shoal.comm.groups.switch import Timing, choose_switch, is_settled, measure_switch
from shoal.errors import WorkerLost
from tests.comm.groups.tcp_ranks import WAIT_S, tcp_groups, together


def _timings(*pairs: tuple[float, float]) -> list[Timing]:
    """(one-shot, segments) in us, of 1 KiB, 4 KiB, 16 KiB, ..."""
    return [
        Timing(num_bytes=1024 * 4**index, one_shot_s=one_shot * 1e-6, segments_s=segments * 1e-6)
        for index, (one_shot, segments) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("pairs", "switch_bytes"),
    [
        ([(1, 2), (2, 3), (8, 6)], 8192),
        ([(1, 2), (2, 3), (4, 5)], 16384),
        ([(2, 1), (3, 2), (4, 3)], 0),
        ([(1, 2), (4, 3), (8, 6), (30, 20)], 2048),
        ([(1, 2), (2, 1.9), (4, 6), (30, 20)], 32768),
        ([(1, 2)], 1024),
        ([(2, 1)], 0),
    ],
    ids=["crossing", "never segments", "never one-shot", "early", "one outlier", "one size", "one size, segments"],
)
def test_the_switch_loses_the_least_time(pairs: list[tuple[float, float]], switch_bytes: int) -> None:
    assert choose_switch(_timings(*pairs)) == switch_bytes


@pytest.mark.parametrize(
    ("pairs", "settled"),
    [
        ([(1, 2)], False),
        ([(2, 1)], False),
        ([(1, 2), (2, 1)], False),
        ([(2, 1), (1, 2)], False),
        ([(2, 1), (2, 1)], True),
        ([(1, 2), (2, 1), (2, 1)], True),
        ([(2400, 2500)], False),
        ([(2600, 2500)], True),
    ],
)
def test_larger_sizes_are_left_out_when_the_outcome_is_clear_or_they_would_take_long(
    pairs: list[tuple[float, float]], settled: bool
) -> None:
    assert is_settled(_timings(*pairs)) is settled


class ScriptedGroup:
    """Rank 1 of a group whose rank 0 says what it measured, (one-shot, segments) in seconds by size."""

    rank, size = 1, 2

    def __init__(self, medians_s: list[tuple[float, float]]) -> None:
        self.switch_bytes = 77
        self.sums: list[tuple[int, int]] = []
        """(bytes, switch) of each"""
        self._medians_s = iter(medians_s)

    def all_reduce(self, x: F32, *, timeout_s: float) -> None:
        self.sums.append((x.nbytes, self.switch_bytes))

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        assert root == 0
        np.frombuffer(memoryview(data), np.float64)[:] = next(self._medians_s)

    def all_gather(self, part: Buffer, out: object, *, timeout_s: float) -> None:
        raise AssertionError("not needed to measure the switch")

    def close(self) -> None:
        raise AssertionError("the group is still needed")


def test_what_rank_0_measured_decides_and_both_ways_are_timed_in_turn() -> None:
    group = ScriptedGroup([(1e-6, 2e-6), (2e-6, 3e-6), (3e-6, 2e-6), (9e-6, 2e-6)])
    assert measure_switch(group, timeout_s=WAIT_S) == group.switch_bytes == 32768  # between 16 and 64 KiB
    sizes = sorted({num_bytes for num_bytes, _ in group.sums})
    assert sizes == [4096, 16384, 65536, 262144]
    for num_bytes, rounds in zip(sizes, (25, 25, 25, 5), strict=True):
        of_size = [switch for size, switch in group.sums if size == num_bytes]
        assert of_size == [1 << 62, 0] * (1 + rounds)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_over_tcp_end_with_the_same_switch(size: int) -> None:
    groups = tcp_groups(size)
    switches = together([partial(measure_switch, group, timeout_s=WAIT_S) for group in groups])
    assert switches == [switches[0]] * size == [group.switch_bytes for group in groups]
    for group in groups:
        group.close()


def test_ranks_in_shared_memory_end_with_the_same_switch() -> None:
    fd = create_group_memory(2)
    groups = [SharedMemoryGroup(fd, rank=rank, size=2, generation=1) for rank in range(2)]
    switches = together([partial(measure_switch, group, timeout_s=WAIT_S) for group in groups])
    assert switches == [switches[0]] * 2 == [group.switch_bytes for group in groups]
    for group in groups:
        group.close()


def test_a_missing_rank_ends_the_measurement() -> None:
    groups = tcp_groups(2)
    with pytest.raises(WorkerLost, match="rank 1"):
        measure_switch(groups[0], timeout_s=0.1)
    for group in groups:
        group.close()
