"""Whole copies on one machine: their weights are mapped once, and counted once."""

from __future__ import annotations

import pytest

from shoal.errors import CapacityError
from shoal.planner.choice.choose import choose
from shoal.planner.choice.goal import Goal
from shoal.planner.memory.kept_copies import for_copies
from shoal.planner.predict.workload import Workload
from tests.planner.choice.example_fleets import MB, SLOW_LINK, make_class, make_fleet, make_model

GOAL = Goal(objective="throughput")
WORKLOAD = Workload(streams=8, prompt_tokens=16, output_tokens=32)
MODEL = make_model()
WEIGHT_BYTES = MODEL.by_precision["int8"].total_bytes


@pytest.mark.parametrize("num_workers", [2, 3, 4])
def test_all_workers_together_have_the_memory_that_there_is(num_workers: int) -> None:
    fleet = for_copies(make_fleet(make_class("core", count=num_workers, memory_mb=50)), WEIGHT_BYTES)
    assert fleet is not None
    (one,) = fleet.classes
    kv_bytes = one.memory_bytes - WEIGHT_BYTES
    assert WEIGHT_BYTES + num_workers * kv_bytes <= num_workers * 50 * MB
    assert WEIGHT_BYTES + num_workers * (kv_bytes + 1) > num_workers * 50 * MB - num_workers


def test_a_lone_worker_shares_with_nobody() -> None:
    assert for_copies(make_fleet(make_class("core", memory_mb=50)), WEIGHT_BYTES) is None


def test_copies_that_share_their_weights_are_chosen_where_each_alone_would_not_fit() -> None:
    """84 MB of weights: each of two workers has 60 MB, both together 120 MB."""
    fleet = make_fleet(make_class("core", count=2, memory_mb=60), link=SLOW_LINK, sums=SLOW_LINK)
    alone = choose([fleet], MODEL, WORKLOAD, GOAL, ("int8",)).best
    assert len(alone.replicas) == 1
    copies = for_copies(fleet, WEIGHT_BYTES)
    assert copies is not None
    best = choose([fleet, copies], MODEL, WORKLOAD, GOAL, ("int8",)).best
    assert best.fleet is copies
    assert [len(replica) for replica in best.replicas] == [1, 1]


def test_memory_that_copies_share_is_no_room_for_parts_of_a_model() -> None:
    """Two workers of 30 MB cannot hold 84 MB, in whatever pieces."""
    fleet = make_fleet(make_class("core", count=2, memory_mb=30))
    copies = for_copies(fleet, WEIGHT_BYTES)
    assert copies is not None
    with pytest.raises(CapacityError, match="are missing"):
        choose([fleet, copies], MODEL, WORKLOAD, GOAL, ("int8",))
