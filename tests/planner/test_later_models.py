"""Models that are planned one after the other leave room for those that follow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shoal.errors import CapacityError
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.fleet_candidate import FleetCandidate
from shoal.planner.graph_choice.fleet_choose import choose_graph_fleet
from shoal.planner.later_models import choose_with_room, leaving_room
from tests.planner.graph_choice.example_graph_fleets import make_graph_fleet

GOAL = Goal(objective="throughput")
NODES = 12


def planned(free: list[int], size: int, later: Sequence[int]) -> FleetCandidate:
    """A graph of so many bytes on machines of which it then takes its share."""
    fleet = make_graph_fleet(
        *(1.0 for _ in free), memory_bytes=free, bytes_per_node=size // NODES, crossing_bytes=[10**6] * (NODES - 1)
    )
    best = choose_with_room(
        fleet, later, lambda one: choose_graph_fleet(one, GOAL), lambda choice: choice.best.score(GOAL)
    ).best
    for stage in (stage for replica in best.replicas for stage in replica):
        for index, num_bytes in zip(stage.group.members, stage.memory_bytes, strict=True):
            free[index] -= num_bytes
    assert min(free) >= 0
    return best


def test_the_third_of_three_fits_where_the_first_two_could_have_filled_all_machines() -> None:
    sizes = [4800, 4800, 4800]
    free = [10_000, 10_000]
    first, second, _ = (planned(free, size, sizes[place + 1 :]).split for place, size in enumerate(sizes))
    assert (first, second) == ("dp=2", "1"), "copies as far as they leave room"
    greedy = [10_000, 10_000]
    assert [planned(greedy, size, ()).split for size in sizes[:2]] == ["dp=2", "dp=2"]
    with pytest.raises(CapacityError):
        planned(greedy, sizes[2], ())


def test_a_large_model_to_come_has_a_machine_left_to_it() -> None:
    free = [10_000, 8_000, 6_000]
    best = planned(free, 1200, [9_000])
    assert free == [10_000, 6_800, 4_800]
    assert best.split == "dp=2"


def test_where_no_room_can_be_left_the_best_plan_stays() -> None:
    free = [10_000, 10_000]
    assert planned(free, 4800, [20_000]).split == "dp=2"


def test_ways_to_leave_room() -> None:
    fleet = make_graph_fleet(1.0, 1.0, 1.0, memory_bytes=[10, 8, 6])
    assert leaving_room(fleet, ()) == []
    ways = [[one.memory_bytes for one in way.classes] for way in leaving_room(fleet, [3, 6, 1])]
    assert ways == [[4, 2, 0], [0, 8, 6]]
    assert len(leaving_room(fleet, [11])) == 1
