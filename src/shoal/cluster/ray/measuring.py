"""Measure the machines of a cluster and the links between them, at once where that falsifies nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from shoal.cluster.ray.agent import MachineFacts
from shoal.comm.tls_identity import ClusterAuthority
from shoal.planner.speeds import Fleet, LinkSpeed

_MEASURE_TIMEOUT_S = 600.0
_LINK_TIMEOUT_S = 60.0
_NO_LINK = LinkSpeed(latency_s=0.0, bytes_per_s=1e15)
"""From a machine with one worker to itself: never used."""
Get = Callable[[Any, str, float], Any]
"""see `RayCluster.get`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayMachine:
    """One machine that is part of the cluster."""

    name: str
    address: str
    facts: MachineFacts
    agent: Any
    """handle of the actor"""


def measure_machines(
    machines: Sequence[RayMachine], ask: Callable[[RayMachine], Any], get: Get, on_progress: Callable[[str], None]
) -> list[Fleet]:
    """Each machine's one worker. Machines that are parts of one computer are measured one after the other.

    Args:
        machines: in any order.
        ask: begins a measurement; its answer is a reference for `get`.
        get: waits for it.
        on_progress: told what is being measured.
    """
    fleets: dict[str, Fleet] = {}
    computers = [list(parts) for _, parts in groupby(sorted(machines, key=_boot_id), key=_boot_id)]
    for turn in range(max(map(len, computers))):
        measured = [parts[turn] for parts in computers if turn < len(parts)]
        on_progress(", ".join(machine.name for machine in measured))
        references = [ask(machine) for machine in measured]
        for machine, reference in zip(measured, references, strict=True):
            fleets[machine.name] = get(reference, machine.name, _MEASURE_TIMEOUT_S)
    return [fleets[machine.name] for machine in machines]


def measure_links(
    machines: Sequence[RayMachine], get: Get, on_progress: Callable[[str], None]
) -> tuple[tuple[LinkSpeed, ...], ...]:
    """[from machine][to machine], one after the other: they may share a wire."""
    authority = ClusterAuthority()

    def between(one: RayMachine, other: RayMachine) -> LinkSpeed:
        if one is other:
            return _NO_LINK
        on_progress(f"link from {one.name} to {other.name}")
        address = get(other.agent.answer_pings.remote(authority.issue()), other.name, _LINK_TIMEOUT_S)
        return get(one.agent.time_pings.remote(address, authority.issue()), one.name, _LINK_TIMEOUT_S)

    return tuple(tuple(between(one, other) for other in machines) for one in machines)


def _boot_id(machine: RayMachine) -> str:
    return machine.facts.boot_id
