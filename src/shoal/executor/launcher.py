"""How the workers of a pipeline come to be and how they are wired: on this machine, or on several."""

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
    """what to call the worker in messages"""
    load: LoadMessage
    machine: str | None
    """where it runs; None: here"""
    python: str | None = None
    """path of the Python that runs it; None: the one that runs the head"""
    cpu_quota: float | None = None
    """share of its cores' time that it is held to; None: all"""


def worker_label(shard: WorkerPlacement, stage: int, rank: int, num_shards: int) -> str:
    """What to call a worker of a replica in messages."""
    which = f"stage {stage}" + (f" shard {rank}" if num_shards > 1 else "")
    where = f" on {shard.machine}" if shard.machine else ""
    return which + where + (f" on {shard.device.name}" if shard.device else "")


def place_of(shard: WorkerPlacement, load: LoadMessage, replica: str) -> Place:
    """The place of a worker in the replica of that name."""
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
    """What one worker hands on to another: both by stage and rank."""

    source: tuple[int, int]
    consumer: tuple[int, int]


class Wiring(Protocol):
    """The links among the workers of one generation."""

    def port(self, index: int) -> TensorPort:
        """What the head and a worker, counted stage by stage and rank by rank, exchange tensors by."""
        ...

    def cut(self) -> None:
        """Cut all links: workers that wait in one learn of it. Idempotent."""
        ...


class WorkerLauncher(Protocol):
    """Makes workers, and the links among them."""

    def start(self, place: Place) -> MessageWorker:
        """A worker that has been told what to load. Returns before it has. Raises ShoalError."""
        ...

    def wire(
        self, places: Sequence[Sequence[Place]], workers: Sequence[Sequence[MessageWorker]], generation: Generation
    ) -> Wiring:
        """Tell workers, stage by stage and rank by rank, who their neighbors are. Raises ShoalError."""
        ...

    def elsewhere(self, machine: str) -> WorkerPlacement | None:
        """A place on another machine for the only worker of a replica, whose own machine cannot be had; None: there is
        none."""
        ...


def replica_elsewhere(replica: ReplicaT, launcher: WorkerLauncher) -> ReplicaT | None:
    """A replica whose only worker cannot be had on its machine, on another one.

    Returns:
        None where there is no other machine for it, or it has other workers. What computes on a device stays there.
    """
    (shard, *others) = replica.shards
    if others or not shard.machine or shard.device is not None:
        return None
    place = launcher.elsewhere(shard.machine)
    return None if place is None else moved_replica(replica, place)


def edges(places: Sequence[Sequence[Place]]) -> Iterator[Edge]:
    """In the order of the consumers, then of the sources. A shard takes from the shard of its own rank, counted round.

    Args:
        places: for each stage its shards, in the order of their ranks.
    """
    for stage, shards in enumerate(places):
        for rank, place in enumerate(shards):
            for source in place.load.sources:
                yield Edge((source, rank % len(places[source])), (stage, rank))
