"""From what the user asked for to a plan for an ONNX graph: a split said by hand, a stored plan, or a chosen one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from shoal.config import DevicesConfig, GraphLaunchConfig
from shoal.core.plan.devices.workers import deal_devices
from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.rebuilding import with_placements
from shoal.errors import CapacityError, ConfigError, while_reading
from shoal.executor.graph_replicas import build_replicas
from shoal.launch.devices import devices_by_hand, offer_for
from shoal.launch.graph.auto_plan import GraphAutoPlan, choose_graph_plan
from shoal.launch.graph.sample import GraphSample, open_sample
from shoal.launch.graph.stored_plan import read_graph_plan
from shoal.launch.planned import Planned
from shoal.machines.machines import Machines
from shoal.machines.opening import open_machines
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.cuts import cut_places
from shoal.measure.graph.measurer import GraphMeasurer, ReplicaMeasurer
from shoal.measure.graph.profile import GraphSetting
from shoal.measure.measuring import Measuring
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.identity import graph_shape
from shoal.model.graph.sample.node_times import NodeTimes, estimate_nodes, measure_nodes
from shoal.model.graph.stage.cuts import spec_bytes, stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.planner.graph_choice.choice import GraphSplit
from shoal.planner.graph_cut import cut_stages
from shoal.planner.memory.fit import format_bytes
from shoal.planner.memory.graph_fit import check_copies, num_affordable
from shoal.planner.split.cores import cores_by_node, deal_cores
from shoal.planner.split.machine_places import place_on_machines
from shoal.planner.split.split_spec import AUTO, SplitSpec, parse_split
from shoal.router.graph_executor import Tensors
from shoal.worker.memory_nodes import node_cpus

Progress = Callable[[str], None]
MakeMeasurer = Callable[[GraphFile, Tensors, Sequence[int], GraphStage | None], GraphMeasurer]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGraph(Planned[GraphPlan, GraphAutoPlan[GraphSplit]]):
    """A graph that is opened, measured and cut, with nothing started yet."""

    graph: GraphFile
    sample: Tensors
    """a small valid input"""
    whole: GraphStage | None
    """the session that measured the graph, where it is also the one that is to compute"""
    note: str | None = None
    """what the user should hear of the batch; None: nothing"""
    times: NodeTimes | None = None
    """of the graph's nodes, where they were measured to cut it"""


def plan_graph(
    config: GraphLaunchConfig,
    given: Tensors | None = None,
    graph: GraphFile | None = None,
    *,
    on_progress: Progress = lambda what: None,
    make_measurer: MakeMeasurer = ReplicaMeasurer,
    machines: Machines | None = None,
) -> PlannedGraph:
    """Open the file, find its batch axes, and decide its split, measuring where there is something to decide.

    Args:
        config: what the user asked for.
        given: real inputs, of any number of rows, to measure with; None makes some up.
        graph: `config.model`, where it is open already.
        on_progress: told what is being measured, for `auto`.
        make_measurer: who measures, for `auto`, what has not been measured before.
        machines: to plan for, where they are open already; they are left if planning fails.

    Raises:
        ConfigError: the split, the plan, the threads or a batch dimension make no sense for this graph.
        ModelLoadError: the file is missing, broken or holds what ONNX Runtime cannot run.
        InvalidRequest: the given inputs are not the graph's.
        CapacityError: the copies of its weights do not fit into memory.
        WorkerLost: a worker died while it was measured, or another machine does not answer.
    """
    with ExitStack() as on_failure, while_reading(config.model):
        if machines is not None:
            on_failure.callback(machines.close)
        spec = None if config.plan_file is not None or config.split == AUTO else parse_split(config.split)
        if spec is not None and spec.expert_shares is not None:
            raise ConfigError(
                f"--split {config.split}: ep deals out the experts of language models; use tp for a graph"
            )
        graph = graph or open_graph(Path(config.model))
        machines = machines or open_machines(config.planning.cluster)
        if machines is not None:
            on_failure.callback(machines.close)  # idempotent
            on_progress("whether all machines have the model")
            machines.find_model(graph.path)
        planning = _Planning(config, graph, given, machines)
        if config.plan_file is not None:
            planned = planning.stored(config.plan_file)
        elif spec is None:
            planned = planning.automatic(on_progress, make_measurer)
        else:
            planned = planning.by_hand(spec)
        on_failure.pop_all()
    return planned


class _Planning:
    """Planning one graph: what all ways to a plan have in common."""

    def __init__(
        self, config: GraphLaunchConfig, graph: GraphFile, given: Tensors | None, machines: Machines | None
    ) -> None:
        self._config, self._graph, self._given, self._machines = config, graph, given, machines
        cores = sorted(os.sched_getaffinity(0))
        self._cores = tuple(core for group in cores_by_node(cores, node_cpus().values()) for core in group)
        """node by node, so that as many workers as nodes have a node each"""

    def by_hand(self, spec: SplitSpec) -> PlannedGraph:
        """A split that the user has said."""
        config, graph = self._config, self._graph
        threads, cores = deal_cores(self._cores, spec.num_workers, config.threads)
        whole = self._open_whole(threads, spec.num_replicas, f"--split {spec}")
        sample = open_sample(config, graph, whole, self._given)
        boundaries, times = _cut(graph, spec, sample.inputs, threads, measure=whole is not None)
        edges = (0, *boundaries, graph.num_nodes)
        stage_s = None if times is None else [sum(times.seconds[first:last]) for first, last in pairwise(edges)]
        plan = GraphPlan(
            model=config.model,
            split=str(spec),
            inputs=graph.inputs,
            outputs=graph.outputs,
            batch=sample.batch,
            replicas=build_replicas(graph, spec, boundaries, threads=threads, cores=cores, stage_s=stage_s),
            shape=graph_shape(graph),
        )
        if self._machines is not None:
            plan = place_on_machines(plan, self._machines.cores(), config.threads)
        devices = devices_by_hand(config.devices)
        plan = with_placements(plan, deal_devices(plan.shards, devices, config.devices))
        return replace(self._planned(plan, sample, whole), times=times)

    def automatic(self, on_progress: Progress, make_measurer: MakeMeasurer) -> PlannedGraph:
        """The split that is best here, or on the machines."""
        config, graph, cores = self._config, self._graph, self._cores
        is_elsewhere = self._machines is not None or config.planning.cluster is not None
        offer = offer_for(config.devices, is_elsewhere=is_elsewhere)
        whole = self._open_whole(config.threads or len(cores), 1, "--split auto")
        sample = open_sample(config, graph, whole, self._given)
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
        auto = choose_graph_plan(
            config.planning,
            setting,
            sample.batch,
            lambda on_cores: make_measurer(graph, micro_batch.inputs, on_cores, here if on_cores == cores else None),
            Measuring(threads=config.threads, refresh=config.planning.refresh, on_progress=on_progress),
            self._machines,
            offer,
        )
        return self._planned(auto.plan, sample, here, auto)

    def stored(self, name: str) -> PlannedGraph:
        """The plan in a file."""
        config, graph = self._config, self._graph
        if config.devices != DevicesConfig():
            raise ConfigError(f"{name} already names the devices; leave out --device and the options that belong to it")
        if config.threads is not None or config.batch_dims or not config.is_batched:
            raise ConfigError(
                f"{name} already contains the threads and the batch axes; leave out --threads and --batch-dim"
            )
        plan = read_graph_plan(name, model=config.model, graph=graph, cores=self._cores)
        whole = self._open_whole(plan.shards[0].threads, len(plan.replicas), f"--plan {name}")
        return self._planned(plan, open_sample(config, graph, whole, self._given, plan.batch), whole)

    def _planned(
        self,
        plan: GraphPlan,
        sample: GraphSample,
        whole: GraphStage | None,
        auto: GraphAutoPlan[GraphSplit] | None = None,
    ) -> PlannedGraph:
        (first, *others) = plan.shards
        is_here = self._config.in_process and not others and first.machine is None and first.device is None
        return PlannedGraph(
            graph=self._graph,
            plan=plan,
            sample=sample.inputs,
            whole=whole if is_here else None,
            auto=auto,
            note=sample.note,
            machines=self._machines,
        )

    def _open_whole(self, threads: int, num_replicas: int, asked: str) -> GraphStage | None:
        """The whole graph in this process to measure with, where memory allows it beside the replicas that are here.

        Raises:
            CapacityError: not even those fit. `asked` is what the user said.
            ModelLoadError: ONNX Runtime cannot load it.
        """
        graph, available = self._graph, free_memory_bytes()
        needed = weight_bytes(graph, 0, graph.num_nodes)
        num_here = num_replicas if self._machines is None else 0
        check_copies(needed, num_here, available, asked)
        _check_values(graph, available)
        if num_affordable(needed, available) <= num_here:
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
                f"{graph.path}: its tensor {spec.name!r} takes {format_bytes(needed)}, but {format_bytes(available)} "
                "are free"
            )


def _cut(
    graph: GraphFile, spec: SplitSpec, sample: Tensors, threads: int, *, measure: bool
) -> tuple[Sequence[int], NodeTimes | None]:
    """Where stages begin, and what was measured where there was something to decide."""
    if spec.num_stages == 1:
        return (), None
    times = measure_nodes(graph, sample, threads=threads) if measure else None
    node_s = estimate_nodes(graph) if times is None else times.seconds
    return cut_stages(node_s, cut_places(graph, times), spec.num_stages, shares=spec.stage_layers), times
