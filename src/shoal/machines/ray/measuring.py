"""Measure the machines of a cluster and the links between them, at once where that falsifies nothing."""

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
"""From a machine with one worker to itself: never used."""
_UNREACHABLE = LinkSpeed(latency_s=1e6, bytes_per_s=1.0)
"""To a machine that is gone."""
Get = Callable[[Any, str, float], Any]
"""see `RayCluster.get`"""


def measure_machines(
    machines: Sequence[RayMachine], ask: Callable[[RayMachine], Any], get: Get, on_progress: Callable[[str], None]
) -> list[Any]:
    """Each machine's one worker. Machines that are parts of one computer are measured one after the other.

    Args:
        machines: in any order.
        ask: begins a measurement; its answer is a reference for `get`.
        get: waits for it.
        on_progress: told what is being measured.

    Returns:
        What each machine has answered, in the order of the machines.
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
    """From machine to machine, where one of them is new; one after the other, since they may share a wire."""
    authority = ClusterAuthority()
    links: dict[tuple[str, str], LinkSpeed] = {}
    for one, other in permutations(machines, 2):
        if one in new or other in new:
            on_progress(f"link from {one.name} to {other.name}")
            links[one.name, other.name] = _measure_link(one, other, authority, get)
    return links


def _measure_link(one: RayMachine, other: RayMachine, authority: ClusterAuthority, get: Get) -> LinkSpeed:
    """Raises ConfigError where the one does not reach the other, though both answer the head."""

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
    """Machines that were known, as they were, and then new ones: one worker of a class of its own on each.

    Args:
        known: None: there were none.
        new: at least one, unless some were known.
        fleets: the worker of each new one, as it was measured alone.
        links: between two machines of which one is new; where there is none, no plan will use it.
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
    """The same for an ONNX graph.

    Args:
        known: None: there were none.
        setting: the graph and a micro-batch.
        new: at least one, unless some were known.
        times: of the worker on each new one.
        links: see `place_machines`.
        here: name of the machine that this process runs on; None: it is not among them.
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
    """[from][to] over all machines, of which those with known links come first."""

    def between(row: int, column: int) -> LinkSpeed:
        if row == column:
            return _NO_LINK
        if max(row, column) < len(known):
            return known[row][column]
        return links.get((names[row], names[column]), _UNREACHABLE)

    indexes = range(len(names))
    return tuple(tuple(between(row, column) for column in indexes) for row in indexes)


def _message_s(known: PlacedFleet | PlacedGraphFleet | None, links: Mapping[tuple[str, str], LinkSpeed]) -> float:
    """The slowest link's latency stands for the way from the head to a worker."""
    slowest_s = max([0.0, *(link.latency_s for link in links.values())])
    return slowest_s if known is None else max(known.fleet.message_s, slowest_s)


def _places(known: PlacedFleet | PlacedGraphFleet | None, new: Sequence[RayMachine]) -> Places:
    """One worker on all cores of each machine."""
    added = (
        (WorkerPlacement(threads=len(machine.facts.cores), cores=machine.facts.cores, machine=machine.name),)
        for machine in new
    )
    return (*(() if known is None else known.places), *added)


def _boot_id(machine: RayMachine) -> str:
    return machine.facts.boot_id
