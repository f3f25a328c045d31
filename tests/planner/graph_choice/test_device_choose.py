"""Whether devices are used beside a processor: by hand, and clusters with GPUs against brute force."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations, pairwise, permutations

import pytest

from shoal.errors import CapacityError
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.device_choose import GraphDeviceOption, OfferedFleet, choose_devices
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.graph_choice.fleet_choose import choose_graph_fleet
from tests.planner.graph_choice.example_graph_fleets import FAST_LINK, make_graph_fleet

THROUGHPUT = Goal(objective="throughput")


def choose(*speeds: float, processor: float | None = 1.0, goal: Goal = THROUGHPUT) -> list[GraphDeviceOption]:
    """Of a device alone, then beside the processor, which then has the first of the speeds."""
    alone = None if processor is None else choose_graph_fleet(make_graph_fleet(processor), goal)
    offered = [OfferedFleet(what="gpu:0 alone", fleet=make_graph_fleet(speeds[-1]))]
    if len(speeds) > 1:
        offered.append(OfferedFleet(what="both", fleet=make_graph_fleet(*speeds)))
    return list(choose_devices(alone, offered, goal))


def taken(options: list[GraphDeviceOption]) -> str:
    (one,) = [option.what for option in options if not option.reason]
    return one


def test_a_device_as_quick_as_the_processor_works_beside_it() -> None:
    options = choose(1.0, 1.0)
    assert taken(options) == "both"
    assert [option.reason for option in options] == ["50% worse by throughput", "50% worse by throughput", ""]


def test_a_slow_device_that_takes_the_processors_cores_is_left_out() -> None:
    options = choose(0.6, 0.2)
    assert taken(options) == "the processor alone"
    assert [option.reason for option in options] == ["", "80% worse by throughput", "20% worse by throughput"]


def test_what_gains_nothing_is_not_worth_another_worker() -> None:
    options = choose(1.0, 0.01)
    assert taken(options) == "the processor alone"
    assert options[2].reason == "hardly better, and less simple"


def test_a_lone_row_goes_to_a_quick_device() -> None:
    assert taken(choose(1.0, 9.0, goal=Goal(objective="latency"))) == "gpu:0 alone"


def test_a_device_alone_where_the_processor_is_not_to_compute() -> None:
    assert taken(choose(0.001, processor=None)) == "gpu:0 alone"


def test_a_device_that_holds_nothing_says_why() -> None:
    small = OfferedFleet(what="gpu:0 alone", fleet=make_graph_fleet(9.0, memory_bytes=[10]))
    processor = choose_graph_fleet(make_graph_fleet(1.0), THROUGHPUT)
    (_, gpu) = choose_devices(processor, [small], THROUGHPUT)
    assert gpu.choice is None
    assert "12,000 bytes" in gpu.reason or "needs" in gpu.reason
    with pytest.raises(CapacityError):
        choose_devices(None, [small], THROUGHPUT)


def fleet_with_gpus(seed: int) -> GraphFleet:
    """Six machines: two or three GPUs, quick and with little memory, and processors with much."""
    draw = random.Random(seed)
    num_gpus = draw.choice([2, 3])
    num_nodes = 6
    whole = num_nodes * 1000
    speeds = [draw.uniform(5.0, 40.0) for _ in range(num_gpus)] + [draw.uniform(0.5, 3.0) for _ in range(6 - num_gpus)]
    memory = [draw.choice([2, 3, 4, 6]) * 1000 for _ in range(num_gpus)]
    memory += [draw.choice([whole, whole, 3000]) for _ in range(6 - num_gpus)]
    fleet = make_graph_fleet(*speeds, num_nodes=num_nodes, memory_bytes=memory, crossing_bytes=[1000] * (num_nodes - 1))
    return replace(fleet, shard_work=lambda num_shards: None)


def least_period(fleet: GraphFleet, members: tuple[int, ...]) -> float | None:
    """Of one pipeline over all of these machines, in any order and cut anywhere."""
    crossing = {place.node: place.num_bytes for place in fleet.places}
    best: float | None = None
    for order in permutations([fleet.classes[index] for index in members]):
        for cuts in combinations(crossing, len(members) - 1):
            stages = list(zip(order, pairwise((0, *cuts, fleet.num_nodes)), strict=True))
            if any(fleet.weight_bytes(*nodes) > machine.memory_bytes for machine, nodes in stages):
                continue
            period = max(
                sum(machine.node_s[first:last])
                + (crossing.get(first, 0) + crossing.get(last, 0)) / FAST_LINK.bytes_per_s
                for machine, (first, last) in stages
            )
            best = period if best is None else min(best, period)
    return best


def most_rows_per_s(fleet: GraphFleet) -> float:
    """Of any way to deal the machines to pipelines, by dynamic programming over sets of machines."""
    num = len(fleet.classes)
    rates = [0.0] * (1 << num)
    for machines in range(1, 1 << num):
        period = least_period(fleet, tuple(index for index in range(num) if machines >> index & 1))
        rates[machines] = 0.0 if period is None else fleet.rows / period
    best = [0.0] * (1 << num)
    for machines in range(1, 1 << num):
        part = machines
        while part:
            best[machines] = max(best[machines], rates[part] + best[machines ^ part])
            part = (part - 1) & machines
    return best[-1]


@pytest.mark.sample(every=20)
@pytest.mark.parametrize("seed", range(200))
def test_no_plan_for_six_machines_with_gpus_is_better(seed: int) -> None:
    """2 % for the simpler kind of split, as everywhere."""
    fleet = fleet_with_gpus(seed)
    choice = choose_graph_fleet(fleet, THROUGHPUT)
    assert choice.best.prediction.rows_per_s >= 0.98 * most_rows_per_s(fleet)
