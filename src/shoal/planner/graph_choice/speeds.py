"""The measured speed of this machine with a graph: input of the choice. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shoal.planner.graph_choice.fleet import NO_BYTES, HeadBytes
from shoal.planner.graph_cut import CutPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSpeed:
    """Seconds of one micro-batch when the machine is divided into so many workers, each with the whole graph."""

    num_workers: int
    threads: int
    """Compute threads of each worker."""
    lone_compute_s: float
    """Seconds that a worker computes while all others are idle."""
    lone_s: float
    """Seconds of the same micro-batch from the head and back."""
    compute_s: float
    """Seconds that a worker computes while all compute."""
    period_s: float
    """Seconds between two answers of a worker that always has its next micro-batch, while all compute."""

    @property
    def turn_s(self) -> float:
        """Seconds of a worker between two micro-batches."""
        return max(0.0, self.period_s - self.compute_s)

    @property
    def message_s(self) -> float:
        """Seconds of the messages to a sleeping worker and back."""
        return max(0.0, self.lone_s - self.lone_compute_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpeed:
    """The measured speed of the graph divided among a number of shards."""

    relative: float
    """A shard's seconds, including sums, over those of a worker with the whole graph beside as many others."""
    weight_share: float
    """The share of the weights that is divided among the shards, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphSpeeds:
    """One graph on this machine, for micro-batches of one size."""

    model: str
    """The model as the user named it."""
    rows: int
    """Rows of a micro-batch."""
    num_cores: int
    num_nodes: int
    available_bytes: int
    """Free memory, which all workers share."""
    weight_bytes: Callable[[int, int], int]
    """Gives the bytes of a stage's weights from its first and last (exclusive) node."""
    node_s: Mapping[int, tuple[float, ...]]
    """Seconds of each node, by threads of a worker; for all layouts of several workers."""
    places: tuple[CutPlace, ...]
    """The places where the graph can be cut, nodes ascending."""
    layouts: tuple[LayoutSpeed, ...]
    """The layouts by number of workers, ascending from one."""
    shards: Mapping[int, ShardSpeed | str]
    """The speed by number of shards, or why the graph is not split over so many."""
    head_bytes: HeadBytes = NO_BYTES
    """Bytes between the head and a replica."""
