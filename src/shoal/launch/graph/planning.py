"""From what the user asked for to a plan for an ONNX graph: a split said by hand, a stored plan, or a chosen one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from shoal.config import GraphLaunchConfig
from shoal.core.plan.graph import GraphPlan
from shoal.errors import CapacityError, ConfigError, while_reading
from shoal.executor.graph_replicas import spell_replicas
from shoal.launch.graph.auto_plan import GraphAutoPlan, choose_graph_plan
from shoal.launch.graph.sample import open_sample
from shoal.launch.graph.stored_plan import read_graph_plan
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.cuts import cut_places
from shoal.measure.graph.measurer import GraphMeasurer, ReplicaMeasurer
from shoal.measure.graph.profile import GraphSetting
from shoal.measure.measuring import Measuring
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.identity import graph_shape
from shoal.model.graph.sample.node_times import estimate_nodes, measure_nodes
from shoal.model.graph.stage.cuts import spec_bytes, stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.planner.graph_cut import cut_stages
from shoal.planner.split.cores import deal_cores
from shoal.planner.split.split_spec import AUTO, SplitSpec, parse_split
from shoal.router.graph_executor import Tensors

_GIB = 1 << 30
Progress = Callable[[str], None]
MakeMeasurer = Callable[[GraphFile, Tensors, Sequence[int], GraphStage | None], GraphMeasurer]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGraph:
    """A graph that is opened, measured and cut, with nothing started yet."""

    graph: GraphFile
    plan: GraphPlan
    sample: Tensors
    """a small valid input"""
    whole: GraphStage | None
    """the session that measured the graph, where it is also the one that is to compute"""
    auto: GraphAutoPlan | None = None
    """what the plan was chosen from; None: it was given"""
    note: str | None = None
    """what the user should hear of the batch; None: nothing"""


def plan_graph(
    config: GraphLaunchConfig,
    given: Tensors | None = None,
    graph: GraphFile | None = None,
    *,
    on_progress: Progress = lambda what: None,
    make_measurer: MakeMeasurer = ReplicaMeasurer,
) -> PlannedGraph:
    """Open the file, find its batch axes, and decide its split, measuring where there is something to decide.

    Args:
        config: what the user asked for.
        given: real inputs, of any number of rows, to measure with; None makes some up.
        graph: `config.model`, where it is open already.
        on_progress: told what is being measured, for `auto`.
        make_measurer: who measures, for `auto`, what has not been measured before.

    Raises:
        ConfigError: the split, the plan, the threads or a batch dimension make no sense for this graph.
        ModelLoadError: the file is missing, broken or holds what ONNX Runtime cannot run.
        InvalidRequest: the given inputs are not the graph's.
        CapacityError: the copies of its weights do not fit into memory.
        WorkerLost: a worker died while it was measured.
    """
    spec = None if config.plan_file is not None or config.split == AUTO else parse_split(config.split)
    graph = graph or open_graph(Path(config.model))
    with while_reading(config.model):
        if config.plan_file is not None:
            return _stored(config, config.plan_file, graph, given)
        if spec is None:
            return _automatic(config, graph, given, on_progress, make_measurer)
        return _by_hand(config, spec, graph, given)


def _by_hand(config: GraphLaunchConfig, spec: SplitSpec, graph: GraphFile, given: Tensors | None) -> PlannedGraph:
    threads, cores = deal_cores(_cores(), spec.num_workers, config.threads)
    whole = _open_whole(graph, threads, spec.num_replicas, f"--split {spec}")
    sample = open_sample(config, graph, whole, given)
    boundaries, stage_s = _cut(graph, spec, sample.inputs, threads, measure=whole is not None)
    plan = GraphPlan(
        model=config.model,
        split=str(spec),
        inputs=graph.inputs,
        outputs=graph.outputs,
        batch=sample.batch,
        replicas=spell_replicas(graph, spec, boundaries, threads=threads, cores=cores, stage_s=stage_s),
        shape=graph_shape(graph),
    )
    here = whole if config.in_process and plan.num_workers == 1 else None
    return PlannedGraph(graph=graph, plan=plan, sample=sample.inputs, whole=here, note=sample.note)


def _automatic(
    config: GraphLaunchConfig,
    graph: GraphFile,
    given: Tensors | None,
    on_progress: Progress,
    make_measurer: MakeMeasurer,
) -> PlannedGraph:
    cores = _cores()
    whole = _open_whole(graph, config.threads or len(cores), 1, "--split auto")
    sample = open_sample(config, graph, whole, given)
    micro_batch = sample.with_rows(config.micro_batch)
    here = whole if config.in_process else None
    setting = GraphSetting(
        graph=graph,
        model=config.model,
        sample=micro_batch.inputs,
        rows=micro_batch.num_rows,
        cores=cores,
        is_in_process=here is not None,
    )
    del whole  # where it is not to compute, the workers that measure may need its memory
    measuring = Measuring(threads=config.threads, refresh=config.planning.refresh, on_progress=on_progress)
    auto = choose_graph_plan(
        config.planning,
        setting,
        sample.batch,
        lambda on_cores: make_measurer(graph, micro_batch.inputs, on_cores, here if on_cores == cores else None),
        measuring,
    )
    return PlannedGraph(
        graph=graph,
        plan=auto.plan,
        sample=sample.inputs,
        whole=here if auto.plan.num_workers == 1 and auto.plan.shards[0].machine is None else None,
        auto=auto,
        note=sample.note,
    )


def _stored(config: GraphLaunchConfig, name: str, graph: GraphFile, given: Tensors | None) -> PlannedGraph:
    if config.threads is not None or config.batch_dims or not config.is_batched:
        raise ConfigError(f"{name} says the threads and the batch axes; leave --threads and --batch-dim out")
    plan = read_graph_plan(name, model=config.model, graph=graph, cores=_cores())
    whole = _open_whole(graph, plan.replicas[0].shards[0].threads, len(plan.replicas), f"--plan {name}")
    sample = open_sample(config, graph, whole, given, plan.batch)
    here = whole if config.in_process and plan.num_workers == 1 else None
    return PlannedGraph(graph=graph, plan=plan, sample=sample.inputs, whole=here)


def _cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def _open_whole(graph: GraphFile, threads: int, num_replicas: int, asked: str) -> GraphStage | None:
    """The whole graph in this process to measure with, where memory allows it beside the replicas.

    Raises:
        CapacityError: not even those fit. `asked` is what the user said.
        ModelLoadError: ONNX Runtime cannot load it.
    """
    needed = weight_bytes(graph, 0, graph.num_nodes)
    available = free_memory_bytes()
    if num_replicas * needed > available:
        raise CapacityError(
            f"{asked} needs {num_replicas * needed / _GIB:.2f} GiB for weights, but {available / _GIB:.2f} GiB are "
            f"free; use {'fewer replicas' if num_replicas > 1 else 'a machine with more'}"
        )
    _check_values(graph, available)
    if (num_replicas + 1) * needed > available:
        return None
    (interface,) = stage_interfaces(graph, ())
    return GraphStage(graph, interface, threads=threads)


def _check_values(graph: GraphFile, available: int) -> None:
    """Refuse a graph that computes, or takes, a single tensor larger than memory: a few bytes of a file can ask for it.

    Raises:
        CapacityError: names the tensor.
    """
    for spec in graph.value_specs.values():
        is_fixed = spec.shape is not None and all(isinstance(dim, int) for dim in spec.shape)
        if is_fixed and (needed := spec_bytes(spec)) > available:
            raise CapacityError(
                f"{graph.path}: its tensor {spec.name!r} takes {needed / _GIB:.2f} GiB, but {available / _GIB:.2f} GiB "
                "are free"
            )


def _cut(
    graph: GraphFile, spec: SplitSpec, sample: Tensors, threads: int, *, measure: bool
) -> tuple[Sequence[int], Sequence[float] | None]:
    """Where stages begin, and the measured seconds of each where there was something to decide."""
    if spec.num_stages == 1:
        return (), None
    times = measure_nodes(graph, sample, threads=threads) if measure else None
    node_s = estimate_nodes(graph) if times is None else times.seconds
    boundaries = cut_stages(node_s, cut_places(graph, times), spec.num_stages, shares=spec.stage_layers)
    if times is None:
        return boundaries, None
    edges = (0, *boundaries, graph.num_nodes)
    return boundaries, [sum(node_s[first:last]) for first, last in pairwise(edges)]
