"""The machines that a plan for a graph may use, other than just this one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from shoal.errors import ConfigError
from shoal.launch.cluster_places import places_of, read_cluster_file
from shoal.machines.machines import Machines
from shoal.machines.placed_fleet import PlacedGraphFleet
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.fleet import make_graph_fleet
from shoal.measure.graph.measurer import GraphMeasurer
from shoal.measure.graph.node_sizes import node_sizes
from shoal.measure.graph.profile import GraphSetting, measure_node_times, measure_places, measure_worker
from shoal.measure.measuring import Measuring
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.planner.files.cluster_file import DescribedMachine
from shoal.planner.graph_choice.fleet import GraphWorkerClass
from shoal.planner.graph_choice.roofline import NodeSize, roofline_nodes
from shoal.planner.speeds.roofline import RooflineRates

MakeMeasurer = Callable[[Sequence[int]], GraphMeasurer]
"""Makes a measurer for the CPU ids on which a worker computes."""


def find_graph_fleet(
    cluster: str | None,
    setting: GraphSetting,
    make_measurer: MakeMeasurer,
    measuring: Measuring,
    machines: Machines | None,
) -> PlacedGraphFleet:
    """Measure the machines that a plan may use.

    Args:
        cluster: the cluster file, used if `machines` is None.
        setting: the graph and a micro-batch.
        make_measurer: makes the measurer for cores at hand.
        measuring: how to measure.
        machines: the machines to measure instead of this one and those of the file.

    Raises:
        ConfigError: threads are given for several machines, or the file is invalid. ModelLoadError, WorkerLost:
        measuring failed.
    """
    if measuring.threads is not None:
        raise ConfigError("--threads is for this machine only; on other machines a worker uses all cores")
    if machines is not None:
        return machines.measure_graph(setting, measuring)
    assert cluster is not None
    return graph_fleet_from_file(cluster, setting, make_measurer, measuring)


def graph_fleet_from_file(
    name: str, setting: GraphSetting, make_measurer: MakeMeasurer, measuring: Measuring
) -> PlacedGraphFleet:
    """The machines of a file: those at hand are measured one by one, the others estimated from their rates.

    Args:
        name: the name of the file.
        setting: the graph and a micro-batch.
        make_measurer: makes the measurer for cores at hand.
        measuring: how to measure.

    Raises:
        ConfigError: the file is invalid, or names CPUs that this process may not use. ModelLoadError, WorkerLost:
        measuring failed.
    """
    cluster = read_cluster_file(name)
    nodes = measure_node_times(setting, make_measurer(setting.cores), measuring)
    sizes = node_sizes(setting.graph, nodes, rows=setting.rows)
    classes = [
        _measured_device(machine, setting, make_measurer(setting.cores), nodes, measuring)
        if machine.is_local and machine.device is not None
        else _measured(machine, setting, make_measurer, measuring)
        if machine.is_local
        else _described(machine, sizes)
        for machine in cluster.machines
    ]
    near = [index for index, machine in enumerate(cluster.machines) if machine.is_local]
    places = [tuple(places_of(machine)) for machine in cluster.machines]
    fleet = make_graph_fleet(setting, nodes, classes, cluster.links_between(), near=near)
    placed = PlacedGraphFleet(fleet=fleet, places=tuple(places))
    return placed if near else _with_head_on_first(placed)


def _with_head_on_first(placed: PlacedGraphFleet) -> PlacedGraphFleet:
    """The fleet with the head on its first machine, if this one is not part of it. Equal machines then form the last
    class."""
    fleet, (first, *others) = placed.fleet, placed.places
    if len(first) == 1:
        return PlacedGraphFleet(fleet=replace(fleet, near=frozenset({0})), places=placed.places)
    one, *rest = fleet.classes
    rows = [(*row, row[0]) for row in fleet.links]
    fleet = replace(
        fleet,
        classes=(replace(one, count=1), *rest, replace(one, count=one.count - 1)),
        links=(*rows, rows[0]),
        near=frozenset({0}),
    )
    return PlacedGraphFleet(fleet=fleet, places=(first[:1], *others, first[1:]))


def _measured_device(
    machine: DescribedMachine,
    setting: GraphSetting,
    measurer: GraphMeasurer,
    nodes: NodeTimes,
    measuring: Measuring,
) -> GraphWorkerClass:
    """Measure one worker on a device of this machine while others are idle. `nodes`: the times of nodes on the
    processor, which give their ratios."""
    (place,) = places_of(machine)
    (compute_s,) = measure_places(setting, measurer, measuring, [place]).compute_s
    scale = compute_s / (sum(nodes.seconds) or 1.0)
    return GraphWorkerClass(
        name=machine.name,
        count=1,
        threads=place.threads,
        memory_bytes=machine.memory_bytes or free_memory_bytes(),
        node_s=tuple(scale * seconds for seconds in nodes.seconds),
    )


def _measured(
    machine: DescribedMachine, setting: GraphSetting, make_measurer: MakeMeasurer, measuring: Measuring
) -> GraphWorkerClass:
    """Measure one worker on some cores of this machine while others are idle."""
    assert machine.cpus is not None
    if missing := set(machine.cpus) - os.sched_getaffinity(0):
        raise ConfigError(f"machine {machine.name}: there is no CPU {min(missing)} to use here")
    if machine.cpu_quota is not None:
        raise ConfigError(f"machine {machine.name}: cpu_quota is for language models only; leave it out for a graph")
    own = GraphSetting(
        graph=setting.graph,
        model=setting.model,
        sample=setting.sample,
        rows=setting.rows,
        cores=machine.cpus,
        is_in_process=False,
    )
    times = measure_worker(own, make_measurer(machine.cpus), measuring)
    return GraphWorkerClass(
        name=machine.name,
        count=1,
        threads=len(machine.cpus),
        memory_bytes=machine.memory_bytes or free_memory_bytes(),
        node_s=times.node_s,
    )


def _described(machine: DescribedMachine, sizes: Sequence[NodeSize]) -> GraphWorkerClass:
    """Estimate one worker on all cores of a described machine."""
    rates = machine.rates
    assert rates is not None
    assert machine.memory_bytes is not None
    int8_flops_per_s = rates.int8_flops_per_s or rates.fp32_flops_per_s

    def of(flops_per_s: float) -> RooflineRates:
        return RooflineRates(memory_bytes_per_s=rates.memory_bytes_per_s, flops_per_s=flops_per_s)

    node_s = roofline_nodes(
        sizes,
        {
            "fp32": of(rates.fp32_flops_per_s),
            "int8": of(int8_flops_per_s),
            "int4": of(rates.int4_flops_per_s or int8_flops_per_s),
        },
    )
    return GraphWorkerClass(
        name=machine.name,
        count=machine.count,
        threads=machine.cores or 1,
        memory_bytes=machine.memory_bytes,
        node_s=node_s,
    )
