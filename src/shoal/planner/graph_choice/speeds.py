"""How fast this machine runs one graph, as it was measured: input of the choice. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shoal.planner.graph_cut import CutPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSpeed:
    """The machine as so many workers, each with the whole graph: seconds of one micro-batch."""

    num_workers: int
    threads: int
    """of each worker"""
    lone_compute_s: float
    """of a worker while all others are idle"""
    lone_s: float
    """the same from the head and back"""
    compute_s: float
    """of a worker while all compute"""
    period_s: float
    """between two answers of a worker that always has the next micro-batch at hand, while all compute"""

    @property
    def turn_s(self) -> float:
        """Of a worker between two micro-batches."""
        return max(0.0, self.period_s - self.compute_s)

    @property
    def message_s(self) -> float:
        """On the way to a worker that sleeps, and back."""
        return max(0.0, self.lone_s - self.lone_compute_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpeed:
    """What a number of shards make of the graph."""

    relative: float
    """a shard's seconds, sums included, over those of a worker with the whole graph among as many others"""
    weight_share: float
    """part of the weights that the shards share among them, 0 to 1"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphSpeeds:
    """One graph on this machine, for micro-batches of one size."""

    model: str
    """as the user named it"""
    rows: int
    """of a micro-batch"""
    num_cores: int
    num_nodes: int
    available_bytes: int
    """free memory, which all workers share"""
    weight_bytes: Callable[[int, int], int]
    """of a stage, from its first and last (exclusive) node"""
    node_s: Mapping[int, tuple[float, ...]]
    """seconds of each node, by the threads that a worker has; needed where there are several workers"""
    places: tuple[CutPlace, ...]
    """where it can be cut, nodes ascending"""
    layouts: tuple[LayoutSpeed, ...]
    """workers ascending; with one worker first"""
    shards: Mapping[int, ShardSpeed | str]
    """by their number; or why the graph is not split over so many"""
