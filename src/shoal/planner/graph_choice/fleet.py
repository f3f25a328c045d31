"""The machines that may run a graph together, with their speeds: input of the choice. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.planner.graph_cut import CutPlace
from shoal.planner.speeds.speeds import LinkSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWorkerClass:
    """Equal machines with one worker each."""

    name: str
    count: int
    threads: int
    """Compute threads of each worker."""
    memory_bytes: int
    """Memory for the weights of each worker."""
    node_s: tuple[float, ...]
    """Seconds of each node of the graph for one micro-batch."""

    @property
    def whole_s(self) -> float:
        """Seconds of the whole graph."""
        return sum(self.node_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWork:
    """How the whole graph is divided among a number of shards."""

    flops_share: float
    """The share of the arithmetic that is divided among the shards, 0 to 1."""
    weight_share: float
    """The share of the weights that is divided among the shards, 0 to 1."""
    num_exchanges: int
    """Sums and gathers in one run."""
    exchange_bytes: float
    """Mean bytes of an exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadBytes:
    """Bytes between the head and a replica for one micro-batch."""

    taken: int = 0
    """Bytes of the graph's inputs, which the first stage takes."""
    given: int = 0
    """Bytes of the graph's outputs, which the last stage gives back."""


NO_BYTES = HeadBytes()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphFleet:
    """One graph on several machines, for micro-batches of one size."""

    model: str
    """The model as the user named it."""
    rows: int
    """Rows of a micro-batch."""
    classes: tuple[GraphWorkerClass, ...]
    links: tuple[tuple[LinkSpeed, ...], ...]
    """Links [from class][to class]; the diagonal is for two machines of one class."""
    places: tuple[CutPlace, ...]
    """The places where the graph can be cut, nodes ascending."""
    weight_bytes: Callable[[int, int], int]
    """Gives the bytes of a stage's weights from its first and last (exclusive) node."""
    shard_work: Callable[[int], ShardWork | None]
    """Gives the division among a number of shards; None: no part of the graph can be split over so many."""
    message_s: float = 0.0
    """Seconds of a micro-batch's messages from the head to a worker and back."""
    head_bytes: HeadBytes = NO_BYTES
    near: frozenset[int] = frozenset()
    """Classes on the head's own machine, where inputs and outputs cost nothing; empty: the head is elsewhere."""

    def taken_s(self, members: Sequence[int]) -> float:
        """Seconds of sending the inputs to a first stage, given the classes of its members."""
        return max(self._carried_s(index, self.head_bytes.taken, is_back=False) for index in members)

    def given_s(self, members: Sequence[int]) -> float:
        """Seconds of sending the outputs from a last stage to the head."""
        return max(self._carried_s(index, self.head_bytes.given, is_back=True) for index in members)

    def _carried_s(self, index: int, num_bytes: int, *, is_back: bool) -> float:
        """Over the link between a class and the head's machine; if the head is elsewhere, over its fastest link."""
        if index in self.near or not num_bytes:
            return 0.0
        others = self.near or {*range(len(self.classes))} - ({index} if self.classes[index].count == 1 else set())
        rates = [(self.links[index][one] if is_back else self.links[one][index]).bytes_per_s for one in others]
        return num_bytes / max(rates) if rates else 0.0

    @property
    def counts(self) -> tuple[int, ...]:
        """Workers of each class."""
        return tuple(one.count for one in self.classes)

    @property
    def num_nodes(self) -> int:
        """Nodes of the graph."""
        return len(self.classes[0].node_s)
