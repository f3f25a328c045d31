"""Ranks of several machines: the same results as in one group, and nobody left waiting when a machine is gone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from shoal.arrays import F32
from shoal.comm.groups.hybrid_group import HybridGroup
from shoal.comm.groups.tcp_group import TcpGroup
from shoal.core.collectives import gather_bytes
from shoal.errors import ConfigError, RemoteProtocolError, WorkerLost
from tests.comm.groups.tcp_ranks import WAIT_S, all_outcomes, tcp_groups, together

_MACHINES = [(0, 0), (0, 1), (0, 0, 1, 1), (3, 3, 3, 0, 7, 7)]


def _hybrid(machine_of_rank: Sequence[int]) -> list[HybridGroup]:
    """TCP groups inside and between: what is tested is how they are put together."""
    machines = list(dict.fromkeys(machine_of_rank))
    leaders: list[TcpGroup | None] = [None]
    leaders = [*tcp_groups(len(machines))] if len(machines) > 1 else leaders
    groups: list[HybridGroup] = []
    for index, machine in enumerate(machines):
        for local in tcp_groups(machine_of_rank.count(machine)):
            leader = leaders[index] if local.rank == 0 else None
            groups.append(HybridGroup(local, leader, rank=len(groups), machine_of_rank=machine_of_rank))
    return groups


def _close(groups: Sequence[HybridGroup]) -> None:
    for group in groups:
        group.close()


def _sum(group: HybridGroup, x: F32) -> F32:
    summed = x.copy()
    group.all_reduce(summed, timeout_s=WAIT_S)
    return summed


@pytest.mark.parametrize("machine_of_rank", _MACHINES, ids=str)
def test_sums_are_of_the_machines_sums_with_the_same_bits_everywhere(machine_of_rank: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    parts = list(rng.standard_normal((len(machine_of_rank), 1001)).astype(np.float32))
    groups = _hybrid(machine_of_rank)
    sums = together([partial(_sum, *pair) for pair in zip(groups, parts, strict=True)])
    of_machine: dict[int, F32] = {}
    for machine, part in zip(machine_of_rank, parts, strict=True):
        of_machine[machine] = of_machine[machine] + part if machine in of_machine else part
    expected = list(of_machine.values())
    total = expected[0]
    for machine_sum in expected[1:]:
        total = total + machine_sum
    assert [group.rank for group in groups] == list(range(len(parts)))
    assert {group.size for group in groups} == {len(parts)}
    for summed in sums:
        np.testing.assert_array_equal(summed, total)
    _close(groups)


@pytest.mark.parametrize("machine_of_rank", _MACHINES, ids=str)
def test_parts_of_different_length_are_gathered(machine_of_rank: tuple[int, ...]) -> None:
    groups = _hybrid(machine_of_rank)
    payloads = [bytes([rank + 1]) * (rank * 3) for rank in range(len(groups))]  # the first is empty
    calls = [partial(gather_bytes, *pair, timeout_s=WAIT_S) for pair in zip(groups, payloads, strict=True)]
    assert together(calls) == [payloads] * len(groups)
    _close(groups)


@pytest.mark.parametrize("machine_of_rank", _MACHINES, ids=str)
def test_every_rank_can_be_the_root(machine_of_rank: tuple[int, ...]) -> None:
    groups = _hybrid(machine_of_rank)
    for root in range(len(groups)):
        buffers = [bytearray([rank] * 9) for rank in range(len(groups))]
        pairs = zip(groups, buffers, strict=True)
        together([partial(group.broadcast, buffer, root=root, timeout_s=WAIT_S) for group, buffer in pairs])
        assert buffers == [bytearray([root] * 9)] * len(groups)
    _close(groups)


@pytest.mark.parametrize("gone", range(4))
def test_whoever_goes_all_others_learn_of_it(gone: int) -> None:
    groups = _hybrid((0, 0, 1, 1))
    groups[gone].close()
    others = [group for group in groups if group.rank != gone]
    outcomes = all_outcomes([partial(_sum, group, np.zeros(4, np.float32)) for group in others])
    assert [type(outcome) for outcome in outcomes] == [WorkerLost] * 3
    assert f"of machine {gone // 2}: rank {gone % 2} has left" in " ".join(map(str, outcomes))
    _close(groups)


def test_a_mismatch_between_the_machines_is_an_error_everywhere() -> None:
    groups = _hybrid((0, 0, 1, 1))
    calls = [partial(_sum, group, np.zeros(4 + group.rank // 2, np.float32)) for group in groups]
    outcomes = all_outcomes(calls)
    assert {type(outcomes[0]), type(outcomes[2])} == {RemoteProtocolError}
    assert {type(outcomes[1]), type(outcomes[3])} == {WorkerLost}
    _close(groups)


def test_the_deadline_is_one_for_all_steps() -> None:
    groups = _hybrid((0, 1))
    with pytest.raises(WorkerLost, match="among the machines: rank 1 did not come"):
        groups[0].all_reduce(np.zeros(4, np.float32), timeout_s=0.0)
    _close(groups)


def test_bad_arguments_are_refused_before_anything_is_sent() -> None:
    groups = _hybrid((0, 1))
    with pytest.raises(ValueError, match="no rank 2"):
        groups[0].broadcast(bytearray(1), root=2, timeout_s=WAIT_S)
    with pytest.raises(ValueError, match="1 buffers for 2 ranks"):
        groups[0].all_gather(b"x", [bytearray(1)], timeout_s=WAIT_S)
    assert together([partial(_sum, group, np.ones(1, np.float32)) for group in groups]) == [[2.0], [2.0]]
    _close(groups)


@pytest.mark.parametrize(
    ("rank", "machine_of_rank", "with_leaders", "said"),
    [
        (0, (0, 1, 0), True, "consecutive"),
        (2, (0, 1), True, "no rank 2"),
        (1, (0, 0, 1), False, "rank 1 is not rank 0"),
        (0, (0, 1), False, r"needs \(0, 2\)"),
        (1, (0, 1), True, r"needs \(1, 2\)"),
        (0, (0,), True, "needs None"),
    ],
)
def test_groups_that_do_not_fit_the_machines_are_refused(
    rank: int, machine_of_rank: tuple[int, ...], with_leaders: bool, said: str
) -> None:
    (local,), leaders = tcp_groups(1), tcp_groups(2)
    with pytest.raises(ConfigError, match=said):
        HybridGroup(local, leaders[0] if with_leaders else None, rank=rank, machine_of_rank=machine_of_rank)
    for leader in leaders:
        leader.close()
