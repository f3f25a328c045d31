"""Planning of an ONNX graph from the user's options: a given split, a stored plan, or a chosen one."""

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
    """A graph that was opened and planned, without any started workers."""

    graph: GraphFile
    sample: Tensors
    """A small valid input."""
    whole: GraphStage | None
    """The session that measured the graph, if it will also compute it."""
    note: str | None = None
    """A note for the user about the batch; None: there is none."""
    times: NodeTimes | None = None
    """The times of the graph's nodes, if they were measured to cut it."""


def plan_graph(
    config: GraphLaunchConfig,
    given: Tensors | None = None,
    graph: GraphFile | None = None,
    *,
    on_progress: Progress = lambda what: None,
    make_measurer: MakeMeasurer = ReplicaMeasurer,
    machines: Machines | None = None,
) -> PlannedGraph:
    """Open the file, find its batch axes, and decide its split, with measurements if necessary.

    Args:
        config: the user's options.
        given: real inputs of any number of rows to measure with; None: generated ones.
        graph: the opened `config.model`; None: it is opened.
        on_progress: called with what is being measured, for `auto`.
        make_measurer: makes the measurer, for `auto`, of what has not been measured before.
        machines: the machines to plan for, if they are open already; they are closed if planning fails.

    Raises:
        ConfigError: the split, the plan, the threads or a batch dimension are invalid for this graph.
        ModelLoadError: the file is missing or damaged, or ONNX Runtime cannot run it.
        InvalidRequest: the given inputs do not match the graph.
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
    """Plans one graph in any of the ways."""

    def __init__(
        self, config: GraphLaunchConfig, graph: GraphFile, given: Tensors | None, machines: Machines | None
    ) -> None:
        self._config, self._graph, self._given, self._machines = config, graph, given, machines
        cores = sorted(os.sched_getaffinity(0))
        self._cores = tuple(core for group in cores_by_node(cores, node_cpus().values()) for core in group)
        """Cores ordered by NUMA node, so that as many workers as nodes get a node each."""

    def by_hand(self, spec: SplitSpec) -> PlannedGraph:
        """Plan a split that the user gave."""
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
        """Plan the best split here, or on the machines."""
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
        del whole  # measuring workers may need its memory
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
        """Read the plan in a file."""
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
        """Open the whole graph in this process for measuring, if memory suffices beside the replicas on this machine.

        Raises:
            CapacityError: not even the replicas fit. `asked`: the user's option, for the message.
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
    """Refuse a graph with a tensor larger than memory, which a small file can declare.

    Raises:
        CapacityError: a tensor is too large. The message names it.
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
    """The first nodes of stages, and the times of nodes if they were measured for the decision."""
    if spec.num_stages == 1:
        return (), None
    times = measure_nodes(graph, sample, threads=threads) if measure else None
    node_s = estimate_nodes(graph) if times is None else times.seconds
    return cut_stages(node_s, cut_places(graph, times), spec.num_stages, shares=spec.stage_layers), times
