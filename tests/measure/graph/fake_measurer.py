"""Says how fast a graph is without running it."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.placement import WorkerPlacement
from shoal.measure.graph.measurer import PlacedTimes, ShardTimes
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.model.graph.stage.session import GraphStage
from shoal.planner.graph_choice.speeds import LayoutSpeed
from shoal.router.graph_executor import Tensors


class FakeMeasurer:
    """Two workers of one thread are `gain` times as fast as one of two. Counts what it is asked."""

    def __init__(self, gain: float = 1.8) -> None:
        self.gain = gain
        self.asked: list[str] = []
        self.sample: Tensors = {}
        self.device_s: dict[str, float] = {}
        """seconds of the whole graph on each device"""
        self.notes: list[str] = []
        self._num_nodes = 0

    def __call__(
        self, graph: GraphFile, sample: Tensors, cores: Sequence[int], whole: GraphStage | None
    ) -> FakeMeasurer:
        """In the place of `ReplicaMeasurer`."""
        self.sample = sample
        self._num_nodes = graph.num_nodes
        return self

    def layout(self, num_workers: int, threads: int) -> LayoutSpeed:
        self.asked.append(f"{num_workers} x {threads}")
        compute_s = 0.01 * num_workers / (self.gain if num_workers > 1 else 1.0)
        return LayoutSpeed(
            num_workers=num_workers,
            threads=threads,
            lone_compute_s=compute_s,
            lone_s=compute_s,
            compute_s=compute_s,
            period_s=compute_s,
        )

    def places(self, places: Sequence[WorkerPlacement]) -> PlacedTimes:
        self.asked.append("+".join(place.device.name if place.device else "cpu" for place in places))
        seconds = [0.01 if place.device is None else self.device_s[place.device.name] for place in places]
        return PlacedTimes(compute_s=tuple(seconds), notes=tuple(self.notes))

    def shards(self, num_shards: int, threads: int) -> ShardTimes:
        self.asked.append(f"{num_shards} shards")
        return ShardTimes(compute_s=None, weight_share=0.0)

    def nodes(self, threads: int) -> NodeTimes:
        self.asked.append("nodes")
        return NodeTimes(
            seconds=(1e-3,) * self._num_nodes, kept_values=frozenset(), output_bytes=(100,) * self._num_nodes
        )
