"""Machines that join while a graph is served: whether they make a copy, part of a pipeline, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.planner.choice.extend import Extension
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.fleet_candidate import FleetCandidate
from shoal.planner.graph_choice.fleet_choose import choose_graph_fleet
from shoal.planner.graph_choice.fleet_extend import extend_graph
from tests.planner.graph_choice.example_graph_fleets import FAST_LINK, SLOW_LINK, make_graph_fleet

GOAL = Goal(objective="throughput")


def join(
    *speeds: float, num_old: int = 1, memory_bytes: Sequence[int] | None = None, link=FAST_LINK, is_open: bool = True
) -> Extension[FleetCandidate] | None:
    """The first `num_old` machines run the graph when the others join."""
    old_memory = None if memory_bytes is None else memory_bytes[:num_old]
    present = choose_graph_fleet(make_graph_fleet(*speeds[:num_old], memory_bytes=old_memory, link=link), GOAL).best
    return extend_graph(
        present.replicas,
        make_graph_fleet(*speeds, memory_bytes=memory_bytes, link=link),
        idle=range(num_old, len(speeds)),
        open_replicas=range(len(present.replicas)) if is_open else (),
        goal=GOAL,
    )


def machines_of(found: Extension[FleetCandidate]) -> set[int]:
    return {index for stage in found.candidate.replicas[found.replica] for index in stage.group.members}


def test_a_machine_that_can_hold_the_graph_makes_a_copy() -> None:
    found = join(1.0, 1.0, link=SLOW_LINK)
    assert found is not None
    assert (found.replica, machines_of(found), found.candidate.split) == (1, {1}, "dp=2")
    assert 0.9 < found.gain < 1.1


def test_a_machine_too_small_for_the_graph_takes_part_of_it() -> None:
    found = join(1.0, 1.0, memory_bytes=(12_000, 7_000))
    assert found is not None
    assert (found.replica, machines_of(found), found.candidate.split) == (0, {0, 1}, "pp=2")
    assert all(
        stage.memory_bytes[0] <= (12_000, 7_000)[stage.group.members[0]] for stage in found.candidate.replicas[0]
    )


def test_two_small_machines_hold_the_graph_together() -> None:
    found = join(1.0, 1.0, 1.0, memory_bytes=(12_000, 7_000, 7_000), is_open=False)
    assert found is not None
    assert (found.replica, machines_of(found)) == (1, {1, 2})


def test_a_small_machine_is_no_use_where_nothing_may_be_cut_anew() -> None:
    assert join(1.0, 1.0, memory_bytes=(12_000, 7_000), is_open=False) is None


def test_a_machine_that_is_far_too_slow_is_no_use() -> None:
    assert join(1.0, 0.01) is None
