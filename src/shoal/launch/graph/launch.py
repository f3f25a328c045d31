"""Launching a planned ONNX graph."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from shoal.core.plan.graph import GraphPlan, GraphReplicaPlan
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.replica_status import WorkerStates
from shoal.executor.graph_factory import GraphFactory, graph_factories
from shoal.executor.graph_in_process import InProcessGraphExecutor
from shoal.executor.graph_replicas import start_replicas
from shoal.executor.launcher import WorkerLauncher
from shoal.executor.local_launcher import LocalLauncher
from shoal.executor.traffic import BatchTrial
from shoal.launch.graph.planning import PlannedGraph
from shoal.launch.graph.supervisor import GraphPlanKind, GraphSupervisor, WatchedRunner, take_back
from shoal.launch.planned import Loaded
from shoal.launch.running.graph_replanner import GraphReplanner
from shoal.launch.running.running_plan import RunningPlan
from shoal.router.batch_engine import BatchEngine
from shoal.router.batch_stats import BatchStats
from shoal.router.graph_executor import Array, GraphExecutor, GraphReplicaFactory, Tensors

_LOAD_TIMEOUT_S = 60.0
_RUNAWAY_S = 300.0
"""The time limit of a batch for a graph with loops, whose time depends on its data. A judgment."""
_LOADING_TIMES_EXPECTED = 6.0
"""Multiple of the first loading time, during which workers of a graph are silent: others may be computing during the
next one, and the file may have left the page cache. A judgment."""


Supervise = Callable[[BatchEngine, Callable[[], float]], GraphSupervisor]
"""Makes the supervisor for an engine that runs a loaded graph, given its clock."""
Attend = Callable[[WatchedRunner], None]
"""Starts the supervision of a runner's replicas."""
_logger = logging.getLogger("shoal.launch")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedGraph(Loaded[GraphPlan]):
    """A graph whose replicas are ready for batches. It must be closed."""

    executors: Sequence[GraphExecutor]
    """One executor for each replica."""
    sample: Tensors
    """A small valid input."""
    supervise: Supervise
    """Makes the supervisor of the plan and of machines that leave, return or join, while an engine runs the graph."""
    attend: Attend
    """Restores replicas on machines that return, while a runner of chunks runs the graph."""
    defaults: Tensors = field(default_factory=dict[str, Array])
    """Default values of optional inputs."""
    factories: Sequence[GraphReplicaFactory] = ()
    """Factories that start workers again, one for each replica; empty: there are no workers that could be lost."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """When workers count as lost and how they are restarted."""
    row_s: Sequence[float] = ()
    """Seconds that the workers of each replica took for a row of the sample; empty: not known."""

    def close(self) -> None:
        """Stop the first workers, and leave other machines. Idempotent."""
        for executor in self.executors:
            executor.close()
        if self.machines is not None:
            self.machines.close()


def launch_graph(
    planned: PlannedGraph,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    recovery: RecoveryConfig | None = None,
    launcher: WorkerLauncher | None = None,
    replans: bool = False,
) -> LoadedGraph:
    """Start the workers of a plan and load their stages; `on_progress(done, total)` counts workers.

    Args:
        planned: the result of `plan_graph`.
        on_progress: called with (loaded workers, all workers).
        recovery: how lost workers are restarted; None: the defaults, with enough time for loading and loops.
        launcher: makes the workers; None: child processes on this machine.
        replans: whether nodes move when workers change speed, and machines that join are used.

    Raises:
        ModelLoadError: a stage cannot be loaded.
        WorkerLost: a worker died while loading.
    """
    plan, defaults = planned.plan, planned.graph.defaults
    trial = BatchTrial({**defaults, **planned.sample}, plan.batch)
    if planned.whole is not None and launcher is None:
        return LoadedGraph(
            plan=plan,
            executors=(InProcessGraphExecutor(planned.whole),),
            sample=planned.sample,
            defaults=defaults,
            supervise=_make_supervise(planned, LocalLauncher(), trial, (), replans=replans),
            attend=lambda runner: None,  # there are no workers that could be lost
        )
    loaded = 0

    def count(num_loaded: int) -> None:
        nonlocal loaded
        if on_progress is not None and loaded < plan.num_workers:  # not for workers that load after a loss
            loaded += num_loaded
            on_progress(loaded, plan.num_workers)

    with ExitStack() as on_failure:
        on_failure.callback(planned.close)
        if planned.machines is not None:
            planned.machines.bring_model(plan, 1, logging.getLogger("shoal.machines").info)
            launcher = launcher or planned.machines.launcher()
        launcher = launcher or LocalLauncher()
        factories = graph_factories(planned.graph, plan.replicas, launcher, count, trial)
        started_s = time.monotonic()
        executors = start_replicas(factories, recovery)
        load_s = time.monotonic() - started_s
        for note in (note for executor in executors for note in executor.notes.values()):
            _logger.info(note)
        on_failure.pop_all()
    if recovery is None:
        recovery = RecoveryConfig(
            load_timeout_s=max(_LOAD_TIMEOUT_S, _LOADING_TIMES_EXPECTED * load_s),
            runaway_s=_RUNAWAY_S if planned.graph.has_loops else None,
        )
    if any(shard.device for shard in plan.shards):
        recovery = recovery.for_devices()
    return LoadedGraph(
        plan=plan,
        executors=executors,
        sample=planned.sample,
        defaults=defaults,
        factories=factories,
        recovery=recovery,
        row_s=[executor.row_s for executor in executors],
        machines=planned.machines,
        supervise=_make_supervise(planned, launcher, trial, factories, replans=replans),
        attend=_make_attend(planned, launcher, trial, factories),
    )


def _make_supervise(
    planned: PlannedGraph,
    launcher: WorkerLauncher,
    trial: BatchTrial,
    factories: Sequence[GraphFactory],
    *,
    replans: bool,
) -> Supervise:
    """Make `LoadedGraph.supervise`. Unless it may replan, it keeps only the path of the graph, not its weights."""
    graph, plan, machines = planned.graph, planned.plan, planned.machines
    kind = GraphPlanKind(graph.path, graph.files, launcher, trial)
    growth = planned.auto.growth if planned.auto is not None and replans else None
    kept = (graph, planned.times) if replans else None

    def supervise(engine: BatchEngine, clock: Callable[[], float]) -> GraphSupervisor:
        running: RunningPlan[GraphPlan, GraphReplicaPlan, BatchStats] = RunningPlan(plan, kind, engine, factories)
        replanner = None if kept is None else GraphReplanner(running, kept[0], clock, kept[1])
        return GraphSupervisor(running, machines, engine, replanner=replanner, growth=growth)

    return supervise


def _make_attend(
    planned: PlannedGraph, launcher: WorkerLauncher, trial: BatchTrial, factories: Sequence[GraphFactory]
) -> Attend:
    """Make `LoadedGraph.attend`, which keeps only the path of the graph."""
    plan, machines = planned.plan, planned.machines
    kind = GraphPlanKind(planned.graph.path, planned.graph.files, launcher, trial)

    def attend(runner: WatchedRunner) -> None:
        if machines is not None:
            running: RunningPlan[GraphPlan, GraphReplicaPlan, WorkerStates]
            running = RunningPlan(plan, kind, runner, factories)
            take_back(running, machines, runner)

    return attend
