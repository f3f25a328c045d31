"""The targets of a drill from `/status`: single workers, and other machines with all their workers."""

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
    """Indices of the replicas that lose workers."""
    worker: int | None
    """Index of the worker in its replica, stage by stage, rank by rank; None: all workers of the machine."""
    machine: str | None
    """Name of the machine; None: the server's own."""
    weight_bytes: int
    """Weights of the largest lost worker."""
    replica_weight_bytes: int
    """Weights of the largest worker of these replicas."""
    reduced_weight_bytes: int | None
    """Weights of a worker after the replicas are planned without the machine; None: they have no other machine."""
    has_others: bool
    """Whether another replica keeps serving and can take over requests."""

    @property
    def name(self) -> str:
        """The target in words: the indices of a worker as in `/status`, or the machine's name."""
        return f"machine {self.machine}" if self.worker is None else f"replica {self.replicas[0]} worker {self.worker}"

    def ways_of(self, hows: Sequence[StrikeKind]) -> list[StrikeKind]:
        """The kinds of strikes that are possible here; only machines have cables."""
        return [how for how in hows if self.worker is None or how != "cable"]


def targets_of(model: Mapping[str, Any], *, every: bool) -> list[DrillTarget]:
    """The first worker of each replica, or all of them, followed by each other machine. `model` is from `/status`."""
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
    """Make a target; `lost` are the workers that it takes away."""
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
