"""From an ONNX file to running replicas: open, measure, cut, start, load."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from shoal.cluster.graph_in_process import InProcessGraphExecutor
from shoal.cluster.graph_local import LocalGraphExecutor
from shoal.config import GraphLaunchConfig
from shoal.core.graph_plan import GraphPlan, GraphReplicaPlan, GraphShardPlan, GraphStagePlan, SplitReport
from shoal.core.graph_wire import load_message
from shoal.errors import CapacityError
from shoal.model.graph.batch_axes import guess_axes, measure_axes, take
from shoal.model.graph.cuts import StageInterface, cut_points, stage_interfaces
from shoal.model.graph.graph_file import GraphFile, open_graph
from shoal.model.graph.input_check import check_inputs
from shoal.model.graph.node_times import estimate_nodes, measure_nodes
from shoal.model.graph.sample_inputs import sample_inputs
from shoal.model.graph.session import GraphStage
from shoal.model.graph.stage_model import weight_bytes
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from shoal.planner.cores import deal_cores
from shoal.planner.graph_cut import CutOption, choose_boundaries
from shoal.planner.split_spec import SplitSpec, parse_split
from shoal.router.graph_executor import GraphExecutor, Tensors
from shoal.router.rows import count_rows

_LINK_BYTES_PER_S = 2e9
"""Shared memory between two workers, one copy in and the first read of it. Source: docs/log.md, tensor links."""
_LINK_LATENCY_S = 100e-6
"""A frame over a socket pair and the wake-up of a sleeping reader. Source: docs/log.md, tensor links."""
_BROKEN_FUSION = 0.05
"""What a cut inside a group of nodes that ONNX Runtime fuses is taken to cost, of a stage's fair share of the time. The
true cost is a node or two; this much keeps most cuts between groups, where a split gives the same bits as the whole."""
_GIB = 1 << 30
_SAMPLE_ROWS = 4
"""Rows of given inputs to measure with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGraph:
    """A graph that is opened, measured and cut, with nothing started yet."""

    graph: GraphFile
    plan: GraphPlan
    sample: Tensors
    """a small valid input"""
    whole: GraphStage | None
    """the session that measured the graph, where it is also the one that is to compute"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedGraph:
    """Replicas that are ready for batches. Close it."""

    plan: GraphPlan
    executors: Sequence[GraphExecutor]
    """one a replica"""
    sample: Tensors
    """a small valid input"""

    def __enter__(self) -> LoadedGraph:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all workers. Idempotent."""
        for executor in self.executors:
            executor.close()


def plan_graph(config: GraphLaunchConfig, given: Tensors | None = None, graph: GraphFile | None = None) -> PlannedGraph:
    """Open the file, find its batch axes, measure its nodes where they are to be cut, and cut.

    Args:
        config: what the user asked for.
        given: real inputs, of any number of rows, to measure with; None makes some up.
        graph: `config.model`, where it is open already.

    Raises:
        ConfigError: the split, the threads or a batch dimension make no sense for this graph.
        ModelLoadError: the file is missing, broken or holds what ONNX Runtime cannot run.
        InvalidRequest: the given inputs are not the graph's.
        CapacityError: the copies of its weights do not fit into memory.
    """
    spec = parse_split(config.split)
    graph = graph or open_graph(Path(config.model))
    threads, cores = deal_cores(sorted(os.sched_getaffinity(0)), spec.num_workers, config.threads)
    guess = guess_axes(graph.inputs, graph.outputs, config.batch_dims)
    whole = _open_whole(graph, spec, threads)
    run = whole.run if whole is not None else None
    if given is None:
        sample = sample_inputs(graph.inputs, run, axes=guess)
    else:
        given = check_inputs(graph.inputs, given, batch=guess, convert=True)
        sample = take(given, guess, range(guess.rows or min(_SAMPLE_ROWS, count_rows(given, guess))))
    batch = guess if run is None else measure_axes(guess, config.batch_dims, run, sample)
    interfaces, times = _cut(graph, spec, sample, threads, measure=whole is not None)
    figures = [_shard_figures(graph, interface, spec.shares) for interface in interfaces]
    workers = iter(cores)
    replicas = tuple(
        GraphReplicaPlan(
            stages=tuple(
                _stage_plan(interface, spec.shares, known, times, threads, workers)
                for interface, known in zip(interfaces, figures, strict=True)
            )
        )
        for _ in range(spec.num_replicas)
    )
    plan = GraphPlan(
        model=config.model,
        split=str(spec),
        inputs=graph.inputs,
        outputs=graph.outputs,
        batch=batch,
        replicas=replicas,
    )
    here = whole if config.in_process and spec.num_workers == 1 else None
    return PlannedGraph(graph=graph, plan=plan, sample=sample, whole=here)


def launch_graph(planned: PlannedGraph, on_progress: Callable[[int, int], None] | None = None) -> LoadedGraph:
    """Start the workers of a plan and load their stages; `on_progress(done, total)` counts workers.

    Raises:
        ModelLoadError: a stage cannot be loaded.
        WorkerLost: a worker died while loading.
    """
    plan = planned.plan
    if planned.whole is not None:
        return LoadedGraph(plan=plan, executors=(InProcessGraphExecutor(planned.whole),), sample=planned.sample)
    loaded = 0

    def count() -> None:
        nonlocal loaded
        loaded += 1
        if on_progress is not None:
            on_progress(loaded, plan.num_workers)

    with ExitStack() as on_failure:
        executors: list[LocalGraphExecutor] = []
        for index, replica in enumerate(plan.replicas):
            executor = _start_replica(planned.graph.path, replica, index)
            on_failure.callback(executor.close)
            executors.append(executor)
        for executor in executors:
            executor.wait_until_loaded(count)
        on_failure.pop_all()
    return LoadedGraph(plan=plan, executors=tuple(executors), sample=planned.sample)


def _start_replica(path: Path, replica: GraphReplicaPlan, index: int) -> LocalGraphExecutor:
    num_stages = len(replica.stages)
    stages = [
        [
            load_message(stage, rank, model_path=str(path), stage_index=position, num_stages=num_stages)
            for rank in range(len(stage.shards))
        ]
        for position, stage in enumerate(replica.stages)
    ]
    return LocalGraphExecutor(f"replica {index}", stages)


def _open_whole(graph: GraphFile, spec: SplitSpec, threads: int) -> GraphStage | None:
    """The whole graph in this process to measure with, where memory allows it beside the replicas."""
    needed = weight_bytes(graph, 0, graph.num_nodes)
    available = psutil.virtual_memory().available
    if spec.num_replicas * needed > available:
        raise CapacityError(
            f"--split {spec} needs {spec.num_replicas * needed / _GIB:.2f} GiB for weights, but "
            f"{available / _GIB:.2f} GiB are free; use fewer replicas"
        )
    if (spec.num_replicas + 1) * needed > available:
        return None
    (interface,) = stage_interfaces(graph, ())
    return GraphStage(graph, interface, threads=threads)


def _cut(
    graph: GraphFile, spec: SplitSpec, sample: Tensors, threads: int, *, measure: bool
) -> tuple[Sequence[StageInterface], Sequence[float] | None]:
    """The stages, and the measured seconds of every node where there was something to decide."""
    if spec.num_stages == 1:
        return stage_interfaces(graph, ()), None
    kept_values: frozenset[str] | None = None
    if measure:
        measured = measure_nodes(graph, sample, threads=threads)
        seconds, kept_values = measured.seconds, measured.kept_values
    else:
        seconds = estimate_nodes(graph)
    penalty_s = _BROKEN_FUSION * sum(seconds) / spec.num_stages
    cuts = [
        CutOption(
            node=cut.node,
            num_bytes=cut.bytes_per_run,
            penalty_s=0.0 if kept_values is None or {spec.name for spec in cut.tensors} <= kept_values else penalty_s,
        )
        for cut in cut_points(graph)
    ]
    boundaries = choose_boundaries(
        seconds,
        cuts,
        spec.num_stages,
        shares=spec.stage_layers,
        bytes_per_s=_LINK_BYTES_PER_S,
        latency_s=_LINK_LATENCY_S,
    )
    return stage_interfaces(graph, boundaries), seconds if measure else None


def _shard_figures(
    graph: GraphFile, interface: StageInterface, shares: tuple[int, ...]
) -> tuple[SplitReport | None, Sequence[int]]:
    """What is split, None for a single shard; and the bytes of weights that each shard holds."""
    if len(shares) > 1:
        return split_figures(graph, interface, shares)
    return None, (weight_bytes(graph, interface.first_node, interface.last_node),)


def _stage_plan(
    interface: StageInterface,
    shares: tuple[int, ...],
    figures: tuple[SplitReport | None, Sequence[int]],
    times: Sequence[float] | None,
    threads: int,
    cores: Iterator[tuple[int, ...]],
) -> GraphStagePlan:
    """Takes as many of `cores` as the stage has shards."""
    first, last = interface.first_node, interface.last_node
    report, shard_bytes = figures
    return GraphStagePlan(
        first_node=first,
        last_node=last,
        inputs=interface.inputs,
        outputs=interface.outputs,
        shards=tuple(
            GraphShardPlan(threads=threads, cores=next(cores), weight_bytes=num_bytes) for num_bytes in shard_bytes
        ),
        shares=shares,
        split=report,
        compute_s=None if times is None else sum(times[first:last]),
    )
