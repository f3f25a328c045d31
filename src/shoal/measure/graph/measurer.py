"""Measuring a graph in workers such as a plan would start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from shoal.core.plan.graph import GraphReplicaPlan, GraphShardPlan, GraphStagePlan
from shoal.core.plan.placement import WorkerPlacement
from shoal.executor.graph_factory import BatchPipeline, graph_factories
from shoal.executor.graph_in_process import InProcessGraphExecutor
from shoal.executor.graph_replicas import build_replicas, start_replicas
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.batch_times import quickest, time_batches, time_each, warm_up
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.sample.node_times import NodeTimes, estimate_nodes, measure_nodes
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from shoal.planner.graph_choice.speeds import LayoutSpeed
from shoal.planner.memory.graph_fit import num_affordable
from shoal.planner.split.cores import deal_cores
from shoal.planner.split.split_spec import SplitSpec
from shoal.router.graph_executor import GraphExecutor, Tensors

_ONE_WAITS = 2
"""Batches in flight that keep a worker busy: one is computed, one waits."""
_TURNS = 2
"""Number of turns of every measurement; the fastest counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTimes:
    """The speed of shards that share the whole graph."""

    compute_s: float | None
    """Seconds of the slowest shard, all-reduces included; None: nothing of the graph can be split."""
    weight_share: float
    """Fraction of the weights that is split among the shards, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTimes:
    """The speeds of workers in different places, each with the whole graph, while all compute."""

    compute_s: tuple[float, ...]
    """Seconds of each worker."""
    notes: tuple[str, ...]
    """Lines for the user about how the workers compute."""


class GraphMeasurer(Protocol):
    """Measures a graph on inputs of one size."""

    def layout(self, num_workers: int, threads: int) -> LayoutSpeed:
        """Measure `num_workers` workers with the whole graph each. Raises ConfigError, ModelLoadError, WorkerLost."""
        ...

    def places(self, places: Sequence[WorkerPlacement]) -> PlacedTimes:
        """Measure workers in these places with the whole graph each. Raises: as `layout`, and CapacityError."""
        ...

    def shards(self, num_shards: int, threads: int) -> ShardTimes:
        """Measure `num_shards` shards of the whole graph. Raises ConfigError, ModelLoadError, WorkerLost."""
        ...

    def nodes(self, threads: int) -> NodeTimes:
        """Measure every node in a worker with the whole graph. Raises ConfigError, ModelLoadError."""
        ...


class ReplicaMeasurer:
    """A `GraphMeasurer` with real workers, which end with each measurement."""

    def __init__(self, graph: GraphFile, sample: Tensors, cores: Sequence[int], whole: GraphStage | None) -> None:
        """Starts no worker yet.

        Args:
            graph: the file.
            sample: inputs of a micro-batch.
            cores: CPU ids to use.
            whole: the graph in this process, with the threads of a plan of one worker, if such a plan computes in this
                process. None: it uses a child process, too.
        """
        self._graph = graph
        self._sample = sample
        self._cores = cores
        self._whole = whole

    def layout(self, num_workers: int, threads: int) -> LayoutSpeed:
        """See `GraphMeasurer.layout`. Measures fewer copies if memory does not suffice."""
        with self._copies(num_workers, threads) as executors:
            warm_up(executors, self._sample)
            turns = [
                (
                    time_batches(executors[:1], self._sample, depth=1),
                    time_batches(executors, self._sample, depth=_ONE_WAITS),
                )
                for _ in range(_TURNS)
            ]
        lone, busy = map(quickest, zip(*turns, strict=True))
        return LayoutSpeed(
            num_workers=num_workers,
            threads=threads,
            lone_compute_s=lone.compute_s,
            lone_s=lone.period_s,
            compute_s=busy.compute_s,
            period_s=busy.period_s,
        )

    def places(self, places: Sequence[WorkerPlacement]) -> PlacedTimes:
        """See `GraphMeasurer.places`."""
        (interface,) = stage_interfaces(self._graph, ())
        replicas = [
            GraphReplicaPlan(
                stages=(
                    GraphStagePlan(
                        first_node=interface.first_node,
                        last_node=interface.last_node,
                        inputs=interface.inputs,
                        outputs=interface.outputs,
                        shards=(GraphShardPlan(**place.placement(), weight_bytes=0),),
                        shares=(1,),
                        split=None,
                        compute_s=None,
                    ),
                )
            )
            for place in places
        ]
        with _running(self._graph, replicas) as executors:
            warm_up(executors, self._sample)
            turns = [time_each(executors, self._sample, depth=_ONE_WAITS) for _ in range(_TURNS)]
            notes = tuple(note for executor in executors for note in executor.notes.values())
        return PlacedTimes(compute_s=tuple(map(min, zip(*turns, strict=True))), notes=notes)

    def shards(self, num_shards: int, threads: int) -> ShardTimes:
        """See `GraphMeasurer.shards`."""
        (whole,) = stage_interfaces(self._graph, ())
        shares = (1,) * num_shards
        report, _ = split_figures(self._graph, whole, shares)
        if not report.split_weight_bytes:
            return ShardTimes(compute_s=None, weight_share=0.0)
        with self._started(SplitSpec(shares=shares), threads) as executors:
            warm_up(executors, self._sample)
            times = quickest(time_batches(executors, self._sample, depth=_ONE_WAITS) for _ in range(_TURNS))
        return ShardTimes(
            compute_s=times.compute_s, weight_share=report.split_weight_bytes / max(1, report.weight_bytes)
        )

    def nodes(self, threads: int) -> NodeTimes:
        """See `GraphMeasurer.nodes`. Estimated if the graph does not fit into this process as well."""
        if self._num_affordable() >= 1:
            return measure_nodes(self._graph, self._sample, threads=threads)
        seconds = tuple(estimate_nodes(self._graph))
        return NodeTimes(seconds=seconds, kept_values=frozenset(), output_bytes=(0,) * len(seconds))

    @contextmanager
    def _copies(self, num_workers: int, threads: int) -> Iterator[Sequence[GraphExecutor]]:
        if num_workers == 1 and self._whole is not None:
            yield [InProcessGraphExecutor(self._whole)]
            return
        num_copies = max(1, min(num_workers, self._num_affordable()))
        with self._started(SplitSpec(num_replicas=num_copies), threads) as executors:
            yield executors

    @contextmanager
    def _started(self, spec: SplitSpec, threads: int) -> Iterator[Sequence[GraphExecutor]]:
        """Start replicas of one stage, which holds the whole graph."""
        _, cores = deal_cores(self._cores, spec.num_workers, threads)
        with _running(self._graph, build_replicas(self._graph, spec, (), threads=threads, cores=cores)) as executors:
            yield executors

    def _num_affordable(self) -> int:
        """Number of copies of the weights that fit into free memory now."""
        return num_affordable(weight_bytes(self._graph, 0, self._graph.num_nodes), free_memory_bytes())


@contextmanager
def _running(graph: GraphFile, replicas: Sequence[GraphReplicaPlan]) -> Iterator[Sequence[BatchPipeline]]:
    executors = start_replicas(graph_factories(graph, replicas))
    try:
        yield executors
    finally:
        for executor in executors:
            executor.close()
