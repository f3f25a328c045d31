"""Measure the machines of a cluster and the links between them, in parallel where that does not distort the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, permutations
from typing import Any

from shoal.comm.links.ports import VARIABLE
from shoal.comm.tls.tls_identity import ClusterAuthority, Membership
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ConfigError, WorkerLost
from shoal.machines.placed_fleet import PlacedFleet, PlacedGraphFleet, Places
from shoal.machines.ray.machine import RayMachine
from shoal.measure.graph.fleet import make_graph_fleet
from shoal.measure.graph.profile import GraphSetting, GraphWorkerTimes
from shoal.planner.graph_choice.fleet import GraphWorkerClass
from shoal.planner.speeds.speeds import Fleet, LinkSpeed

_MEASURE_TIMEOUT_S = 600.0
_LINK_TIMEOUT_S = 60.0
_NO_LINK = LinkSpeed(latency_s=0.0, bytes_per_s=1e15)
"""The link from a machine with one worker to itself, which is never used."""
_UNREACHABLE = LinkSpeed(latency_s=1e6, bytes_per_s=1.0)
"""The link to a machine that is gone."""
Get = Callable[[Any, str, float], Any]
"""See `RayMachines.get`."""


def measure_machines(
    machines: Sequence[RayMachine], ask: Callable[[RayMachine], Any], get: Get, on_progress: Callable[[str], None]
) -> list[Any]:
    """Measure one worker on each machine. Machines that are parts of one computer are measured one after the other.

    Args:
        machines: the machines, in any order.
        ask: starts a measurement and returns a reference for `get`.
        get: waits for the result.
        on_progress: called with what is being measured.

    Returns:
        The result of each machine, in the order of the machines.
    """
    measured: dict[str, Any] = {}
    computers = [list(parts) for _, parts in groupby(sorted(machines, key=_boot_id), key=_boot_id)]
    for turn in range(max(map(len, computers), default=0)):
        at_once = [parts[turn] for parts in computers if turn < len(parts)]
        on_progress(", ".join(machine.name for machine in at_once))
        references = [ask(machine) for machine in at_once]
        for machine, reference in zip(at_once, references, strict=True):
            measured[machine.name] = get(reference, machine.name, _MEASURE_TIMEOUT_S)
    return [measured[machine.name] for machine in machines]


def measure_links(
    machines: Sequence[RayMachine], new: Sequence[RayMachine], get: Get, on_progress: Callable[[str], None]
) -> dict[tuple[str, str], LinkSpeed]:
    """Measure the links between pairs of machines of which one is new, one by one, as they may share a wire."""
    authority = ClusterAuthority()
    links: dict[tuple[str, str], LinkSpeed] = {}
    for one, other in permutations(machines, 2):
        if one in new or other in new:
            on_progress(f"link from {one.name} to {other.name}")
            links[one.name, other.name] = _measure_link(one, other, authority, get)
    return links


def _measure_link(one: RayMachine, other: RayMachine, authority: ClusterAuthority, get: Get) -> LinkSpeed:
    """Measure one link. Raises ConfigError if one cannot reach the other though both answer the head."""

    def member(machine: RayMachine) -> Membership:
        return authority.admit(get(machine.agent.signing_request.remote(), machine.name, _LINK_TIMEOUT_S))

    address = get(other.agent.answer_pings.remote(member(other)), other.name, _LINK_TIMEOUT_S)
    pings = one.agent.time_pings.remote(address, member(one))
    try:
        return get(pings, one.name, _LINK_TIMEOUT_S)
    except WorkerLost as error:
        raise ConfigError(
            f"no link from {one.name} to {other.name} ({error}): if there is a firewall, set "
            f"{VARIABLE}=20000-20100 to ports that it lets through"
        ) from error


def place_machines(
    known: PlacedFleet | None,
    new: Sequence[RayMachine],
    fleets: Sequence[Fleet],
    links: Mapping[tuple[str, str], LinkSpeed],
) -> PlacedFleet:
    """The known machines, unchanged, followed by the new ones. Each has one worker, in a class of its own.

    Args:
        known: the machines that were measured before; None: none.
        new: the new machines; at least one unless some are known.
        fleets: the worker of each new machine, measured alone.
        links: the links between machines of which one is new; no plan uses a missing one.
    """
    old = () if known is None else known.fleet.classes
    classes = (
        *old,
        *(replace(one.classes[0], name=machine.name, count=1) for machine, one in zip(new, fleets, strict=True)),
    )
    matrix = _matrix(() if known is None else known.fleet.links, [one.name for one in classes], links)
    return PlacedFleet(
        fleet=Fleet(
            classes=classes,
            links=matrix,
            sums=matrix,
            turn=fleets[0].turn if known is None else known.fleet.turn,
            message_s=_message_s(known, links),
        ),
        places=_places(known, new),
    )


def place_graph_machines(
    known: PlacedGraphFleet | None,
    setting: GraphSetting,
    new: Sequence[RayMachine],
    times: Sequence[GraphWorkerTimes],
    links: Mapping[tuple[str, str], LinkSpeed],
    here: str | None = None,
) -> PlacedGraphFleet:
    """As `place_machines`, for an ONNX graph.

    Args:
        known: the machines that were measured before; None: none.
        setting: the graph and a micro-batch.
        new: the new machines; at least one unless some are known.
        times: the times of the worker on each new machine.
        links: see `place_machines`.
        here: name of the machine on which this process runs; None: it is not among them.
    """
    classes = (
        *(() if known is None else known.fleet.classes),
        *(
            GraphWorkerClass(
                name=machine.name,
                count=1,
                threads=len(machine.facts.cores),
                memory_bytes=machine.facts.free_memory_bytes,
                node_s=one.node_s,
            )
            for machine, one in zip(new, times, strict=True)
        ),
    )
    matrix = _matrix(() if known is None else known.fleet.links, [one.name for one in classes], links)
    message_s = _message_s(known, links)
    near = frozenset(index for index, one in enumerate(classes) if one.name == here)
    if known is None:
        fleet = make_graph_fleet(setting, times[0].nodes, classes, matrix, message_s=message_s, near=near)
    else:
        fleet = replace(known.fleet, classes=classes, links=matrix, message_s=message_s, near=near)
    return PlacedGraphFleet(fleet=fleet, places=_places(known, new))


def _matrix(
    known: Sequence[Sequence[LinkSpeed]], names: Sequence[str], links: Mapping[tuple[str, str], LinkSpeed]
) -> tuple[tuple[LinkSpeed, ...], ...]:
    """The links [from][to] between all machines; those with known links come first."""

    def between(row: int, column: int) -> LinkSpeed:
        if row == column:
            return _NO_LINK
        if max(row, column) < len(known):
            return known[row][column]
        return links.get((names[row], names[column]), _UNREACHABLE)

    indexes = range(len(names))
    return tuple(tuple(between(row, column) for column in indexes) for row in indexes)


def _message_s(known: PlacedFleet | PlacedGraphFleet | None, links: Mapping[tuple[str, str], LinkSpeed]) -> float:
    """Seconds for a message from the head to a worker, taken from the slowest link's latency."""
    slowest_s = max([0.0, *(link.latency_s for link in links.values())])
    return slowest_s if known is None else max(known.fleet.message_s, slowest_s)


def _places(known: PlacedFleet | PlacedGraphFleet | None, new: Sequence[RayMachine]) -> Places:
    """The places of one worker on all cores of each machine."""
    added = (
        (WorkerPlacement(threads=len(machine.facts.cores), cores=machine.facts.cores, machine=machine.name),)
        for machine in new
    )
    return (*(() if known is None else known.places), *added)


def _boot_id(machine: RayMachine) -> str:
    return machine.facts.boot_id
