"""Machines that may run a graph together, and how fast each of them is with it: input of the choice. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shoal.planner.graph_cut import CutPlace
from shoal.planner.speeds.speeds import LinkSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWorkerClass:
    """Machines that are alike, with one worker on each."""

    name: str
    count: int
    threads: int
    """of the worker"""
    memory_bytes: int
    """for the weights that the worker holds"""
    node_s: tuple[float, ...]
    """seconds of each node of the graph, for one micro-batch"""

    @property
    def whole_s(self) -> float:
        """Seconds of the whole graph."""
        return sum(self.node_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWork:
    """What a number of shards make of the whole graph."""

    flops_share: float
    """part of the arithmetic that the shards divide among them, 0 to 1"""
    weight_share: float
    """part of the weights that they divide among them, 0 to 1"""
    num_exchanges: int
    """sums and gathers of one run"""
    exchange_bytes: float
    """bytes of one of them, on average"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphFleet:
    """One graph on several machines, for micro-batches of one size."""

    model: str
    """as the user named it"""
    rows: int
    """of a micro-batch"""
    classes: tuple[GraphWorkerClass, ...]
    links: tuple[tuple[LinkSpeed, ...], ...]
    """[from class][to class]; the diagonal is for two machines of one class"""
    places: tuple[CutPlace, ...]
    """where the graph can be cut, nodes ascending"""
    weight_bytes: Callable[[int, int], int]
    """of a stage, from its first and last (exclusive) node"""
    shard_work: Callable[[int], ShardWork | None]
    """by the number of shards; None: nothing of the graph can be split over so many"""
    message_s: float = 0.0
    """of a micro-batch on its way from the head to a worker and back"""

    @property
    def counts(self) -> tuple[int, ...]:
        """Workers of each class."""
        return tuple(one.count for one in self.classes)

    @property
    def num_nodes(self) -> int:
        """Nodes of the graph."""
        return len(self.classes[0].node_s)
