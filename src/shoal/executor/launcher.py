"""The interface for starting the workers of a pipeline and laying their links, on one machine or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.comm.links.tensor_port import TensorPort
from shoal.core.plan.placement import WorkerPlacement
from shoal.core.plan.rebuilding import ReplicaT, moved_replica
from shoal.executor.process.message_worker import MessageWorker
from shoal.protocol.graph_messages import LoadGraph
from shoal.protocol.language_messages import LoadStage
from shoal.protocol.worker_messages import Generation

LoadMessage = LoadStage | LoadGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One worker's place in a pipeline."""

    label: str
    """The worker's name in messages."""
    load: LoadMessage
    machine: str | None
    """The machine on which it runs; None: this one."""
    python: str | None = None
    """The path of the Python that runs it; None: the head's."""
    cpu_quota: float | None = None
    """The share of its cores' time to which it is limited; None: all."""


def worker_label(shard: WorkerPlacement, stage: int, rank: int, num_shards: int) -> str:
    """The name of a worker within its replica, for messages."""
    which = f"stage {stage}" + (f" shard {rank}" if num_shards > 1 else "")
    where = f" on {shard.machine}" if shard.machine else ""
    return which + where + (f" on {shard.device.name}" if shard.device else "")


def place_of(shard: WorkerPlacement, load: LoadMessage, replica: str) -> Place:
    """The place of a worker. `replica`: the replica's name."""
    label = worker_label(shard, load.stage_index, load.rank, load.num_shards)
    return Place(
        label=f"{replica} {label}",
        load=load,
        machine=shard.machine,
        python=shard.python,
        cpu_quota=shard.cpu_quota,
    )


@dataclass(frozen=True, slots=True)
class Edge:
    """A link from one worker to another, each given by (stage, rank)."""

    source: tuple[int, int]
    consumer: tuple[int, int]


class Wiring(Protocol):
    """The links among the workers of one generation."""

    def port(self, index: int) -> TensorPort:
        """The port through which the head and a worker exchange tensors; workers are counted stage by stage, rank by
        rank."""
        ...

    def cut(self) -> None:
        """Cut all links; workers that wait on one notice it. Idempotent."""
        ...


class WorkerLauncher(Protocol):
    """Makes workers and the links among them."""

    def start(self, place: Place) -> MessageWorker:
        """Start a worker and tell it what to load. Returns before it has loaded. Raises ShoalError."""
        ...

    def wire(
        self, places: Sequence[Sequence[Place]], workers: Sequence[Sequence[MessageWorker]], generation: Generation
    ) -> Wiring:
        """Lay the links among workers, given by stage and rank, and tell them their neighbors. Raises ShoalError."""
        ...

    def elsewhere(self, machine: str) -> WorkerPlacement | None:
        """A place on another machine for the only worker of a replica, if its own machine is not available; None: there
        is none."""
        ...


def replica_elsewhere(replica: ReplicaT, launcher: WorkerLauncher) -> ReplicaT | None:
    """Move a replica whose only worker cannot be started on its machine to another machine.

    Returns:
        The replica; None if there is no other machine, if it has several workers, or if its worker uses a device.
    """
    (shard, *others) = replica.shards
    if others or not shard.machine or shard.device is not None:
        return None
    place = launcher.elsewhere(shard.machine)
    return None if place is None else moved_replica(replica, place)


def edges(places: Sequence[Sequence[Place]]) -> Iterator[Edge]:
    """All links, ordered by consumer, then by source. A shard receives from the shard of its own rank modulo their
    number.

    Args:
        places: the places of the shards of each stage, in the order of their ranks.
    """
    for stage, shards in enumerate(places):
        for rank, place in enumerate(shards):
            for source in place.load.sources:
                yield Edge((source, rank % len(places[source])), (stage, rank))
