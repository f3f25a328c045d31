"""What a drill takes away, of what `/status` tells: workers one by one, and other machines with all their workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.executor.remote.strikes import StrikeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTarget:
    """One worker of a server, or one of its machines."""

    model: str
    replicas: tuple[int, ...]
    """those that lose workers"""
    worker: int | None
    """of the only replica, stage by stage, rank by rank; None: all workers of the machine"""
    machine: str | None
    """None: the server's own"""
    weight_bytes: int
    """of the largest worker that is lost"""
    replica_weight_bytes: int
    """of the largest worker of these replicas"""
    reduced_weight_bytes: int | None
    """of a worker where the replicas do without the machine; None: they have none but this one"""
    has_others: bool
    """whether a replica goes on serving, to which requests can go"""

    @property
    def name(self) -> str:
        """The numbers that `/status` gives to a worker, or the machine's name."""
        return f"machine {self.machine}" if self.worker is None else f"replica {self.replicas[0]} worker {self.worker}"

    def ways_of(self, hows: Sequence[StrikeKind]) -> list[StrikeKind]:
        """Those of these ways in which it can be taken away: only machines have cables."""
        return [how for how in hows if self.worker is None or how != "cable"]


def targets_of(model: Mapping[str, Any], *, every: bool) -> list[DrillTarget]:
    """Of each replica the first worker, or every one, and then each other machine. `model`: from `/status`."""
    workers = model["plan"]["workers"]
    found: list[DrillTarget] = []
    for replica in range(len(model["replicas"])):
        own = [one for one in workers if one["replica"] == replica]
        lost = [(index, one) for index, one in enumerate(own[: None if every else 1])]
        found += [_target(model, [one], index, one.get("machine")) for index, one in lost]
    machines = dict.fromkeys(one["machine"] for one in workers if one.get("machine") is not None)
    return found + [
        _target(model, [one for one in workers if one.get("machine") == machine], None, machine) for machine in machines
    ]


def _target(
    model: Mapping[str, Any], lost: Sequence[Mapping[str, Any]], worker: int | None, machine: str | None
) -> DrillTarget:
    """`lost`: the workers that are taken away."""
    replicas = tuple(sorted({one["replica"] for one in lost}))
    of_replicas = [one for one in model["plan"]["workers"] if one["replica"] in replicas]
    weights = [one["weight_bytes"] for one in of_replicas]
    left = {one.get("machine") for one in of_replicas} - {machine}
    return DrillTarget(
        model=str(model["name"]),
        replicas=replicas,
        worker=worker,
        machine=machine,
        weight_bytes=max(one["weight_bytes"] for one in lost),
        replica_weight_bytes=max(weights),
        reduced_weight_bytes=sum(weights) // (len(replicas) * len(left)) if left else None,
        has_others=len(model["replicas"]) > len(replicas),
    )
