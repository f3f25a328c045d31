"""The choice of a split for a graph over several machines: against brute force, by hand, and what it refuses."""

from __future__ import annotations

import random
from itertools import combinations, pairwise, permutations

import pytest

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.goal import Goal
from shoal.planner.choice.kinds import KINDS
from shoal.planner.graph_choice.fleet import GraphFleet, ShardWork
from shoal.planner.graph_choice.fleet_choose import choose_graph_fleet
from tests.planner.graph_choice.example_graph_fleets import FAST_LINK, SLOW_LINK, make_graph_fleet

THROUGHPUT = Goal(objective="throughput")


def stages_of(fleet: GraphFleet, goal: Goal = THROUGHPUT) -> list[list[tuple[str, int]]]:
    """Machine and number of nodes of every stage, replica by replica."""
    best = choose_graph_fleet(fleet, goal).best
    return [
        [(fleet.classes[stage.group.members[0]].name, stage.last_node - stage.first_node) for stage in replica]
        for replica in best.replicas
    ]


def best_rows_per_s(fleet: GraphFleet) -> float:
    """The best single pipeline by brute force."""
    crossing = {place.node: place.num_bytes for place in fleet.places}
    best = 0.0
    for size in range(2, len(fleet.classes) + 1):
        for order in permutations(fleet.classes, size):
            for cuts in combinations(crossing, size - 1):
                edges = (0, *cuts, fleet.num_nodes)
                stages = list(zip(order, pairwise(edges), strict=True))
                if all(fleet.weight_bytes(*nodes) <= machine.memory_bytes for machine, nodes in stages):
                    loads_s = [
                        sum(machine.node_s[first:last])
                        + (crossing.get(first, 0) + crossing.get(last, 0)) / FAST_LINK.bytes_per_s
                        for machine, (first, last) in stages
                    ]
                    best = max(best, fleet.rows / max(loads_s))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_no_pipeline_of_unequal_machines_is_much_better(seed: int) -> None:
    """2 % for the simpler kind and 2 % for the cut that fewer bytes cross."""
    draw = random.Random(seed)
    fleet = make_graph_fleet(
        *(draw.uniform(0.5, 4.0) for _ in range(3)),
        num_nodes=8,
        crossing_bytes=[draw.randrange(1_000_000) for _ in range(7)],
        memory_bytes=[7 * 1000] * 3,
        rows=3,
    )
    choice = choose_graph_fleet(fleet, THROUGHPUT)
    assert choice.best.kind == "pipeline", "nobody holds all of it"
    assert choice.best.prediction.rows_per_s >= 0.96 * best_rows_per_s(fleet)
    assert choice.bound_rows_per_s >= choice.best.prediction.rows_per_s
    assert [one.kind for one in choice.alternatives] == list(KINDS)


def test_unequal_machines_share_a_pipeline_by_their_speed() -> None:
    fleet = make_graph_fleet(3.0, 1.0, memory_bytes=[10_000, 10_000])
    (replica,) = stages_of(fleet)
    assert sorted(replica) == [("m0", 9), ("m1", 3)]


def test_copies_where_everything_fits() -> None:
    assert sorted(stages_of(make_graph_fleet(2.0, 1.0))) == [[("m0", 12)], [("m1", 12)]]
    choice = choose_graph_fleet(make_graph_fleet(2.0, 1.0), THROUGHPUT)
    assert (choice.best.kind, choice.best.split) == ("replicas", "dp=2")
    assert choice.best.prediction.rows_per_s == pytest.approx(3.0 / 12e-3)


def test_a_lone_micro_batch_goes_to_the_quickest_machine() -> None:
    assert stages_of(make_graph_fleet(1.0, 2.0, link=SLOW_LINK), Goal(objective="latency")) == [[("m1", 12)]]


def test_the_cut_goes_where_few_bytes_cross() -> None:
    crossing = [10_000_000] * 11
    crossing[6] = 1000
    fleet = make_graph_fleet(1.0, 1.0, memory_bytes=[10_000, 10_000], crossing_bytes=crossing, link=SLOW_LINK)
    (replica,) = choose_graph_fleet(fleet, THROUGHPUT).best.replicas
    assert [stage.first_node for stage in replica] == [0, 7]


def test_shards_where_links_are_quick_and_no_copy_fits() -> None:
    work = ShardWork(flops_share=1.0, weight_share=1.0, num_exchanges=4, exchange_bytes=1000.0)
    fleet = make_graph_fleet(1.0, 1.0, memory_bytes=[7_000, 7_000], shard_work=work)
    choice = choose_graph_fleet(fleet, Goal(objective="latency"))
    assert (choice.best.kind, choice.best.split) == ("tensor", "tp=2")
    assert choice.best.prediction.memory_bytes == (6_000, 6_000)
    exchanges_s = 4 * FAST_LINK.seconds(1000)
    assert choice.best.prediction.latency_s == pytest.approx(6e-3 + exchanges_s)


def test_unlike_members_share_by_their_speed() -> None:
    work = ShardWork(flops_share=1.0, weight_share=1.0, num_exchanges=1, exchange_bytes=1.0)
    fleet = make_graph_fleet(3.0, 1.0, memory_bytes=[11_000, 11_000], shard_work=work)
    tensor = next(one for one in choose_graph_fleet(fleet, THROUGHPUT).alternatives if one.kind == "tensor")
    assert tensor.candidate is not None
    assert tensor.candidate.split == "tp=3:1"


def test_many_alike_machines_are_planned_at_once() -> None:
    fleet = make_graph_fleet(2.0, 1.0, counts=(20, 30), num_nodes=300, memory_bytes=[400_000, 200_000])
    choice = choose_graph_fleet(fleet, THROUGHPUT)
    assert choice.gap < 0.05
    used = [member for replica in choice.best.replicas for stage in replica for member in stage.group.members]
    assert used.count(0) == 20
    assert used.count(1) == 30


def test_a_graph_that_fits_nowhere_says_what_is_missing() -> None:
    fleet = make_graph_fleet(1.0, 1.0, bytes_per_node=1 << 20, memory_bytes=[4 << 20, 4 << 20])
    with pytest.raises(CapacityError, match=r"needs 12\.00 MiB .* have 8\.00 MiB, so 4\.00 MiB are missing"):
        choose_graph_fleet(fleet, THROUGHPUT)


def test_a_latency_target_that_nothing_meets_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"within 0\.001 s; the nearest, --split 1, takes 0\.012 s"):
        choose_graph_fleet(make_graph_fleet(1.0), Goal(latency_slo_s=1e-3))
