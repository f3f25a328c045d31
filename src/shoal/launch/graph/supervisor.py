"""What looks after an ONNX graph while it is served: its plan, and the machines that it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from shoal.core.plan.graph import GraphPlan, GraphReplicaPlan
from shoal.core.recovery.replica_status import WorkerStates
from shoal.errors import ConfigError
from shoal.executor.graph_factory import GraphFactory
from shoal.executor.launcher import WorkerLauncher
from shoal.executor.remote.strikes import Strike
from shoal.executor.traffic import BatchTrial
from shoal.launch.running.graph_replanner import GraphReplanner
from shoal.launch.running.growth import Growth
from shoal.launch.running.joining import Joining
from shoal.launch.running.running_plan import ChangeableEngine, RunningPlan
from shoal.machines.machines import Machines, describe_machines
from shoal.machines.placed_fleet import PlacedGraphFleet
from shoal.planner.split.split_text import describe_shares
from shoal.protocol.worker_messages import FileState
from shoal.router.batch_engine import BatchEngine
from shoal.router.batch_stats import BatchStats


class GraphPlanKind:
    """Implements `PlanKind` for ONNX graphs."""

    def __init__(self, path: Path, files: tuple[FileState, ...], launcher: WorkerLauncher, trial: BatchTrial) -> None:
        """
        Args:
            path: of the graph's file.
            files: the graph's, as they were when it was opened.
            launcher: makes workers.
            trial: what new workers compute before they count as ready.
        """
        self._path, self._files, self._launcher = path, files, launcher
        self._trial = trial

    def factory(self, plan: GraphPlan, index: int) -> GraphFactory:
        """See `PlanKind.factory`."""
        replica = plan.replicas[index]
        return GraphFactory(self._path, replica, index, self._launcher, self._files, trial=self._trial)

    @staticmethod
    def with_replicas(plan: GraphPlan, replicas: tuple[GraphReplicaPlan, ...]) -> GraphPlan:
        """See `PlanKind.with_replicas`."""
        shares = [[stage.shares for stage in replica.stages] for replica in replicas]
        return replace(plan, replicas=replicas, split=describe_shares(shares))


class WatchedRunner(ChangeableEngine[WorkerStates], Protocol):
    """The part of `offline.pull.ChunkRunner` that this needs."""

    def watch(self, watcher: Callable[[], None], close: Callable[[], None]) -> None:
        """See `ChunkRunner.watch`."""
        ...

    def wake(self) -> None:
        """See `ChunkRunner.wake`."""
        ...


def take_back(
    running: RunningPlan[GraphPlan, GraphReplicaPlan, Any], machines: Machines, runner: WatchedRunner
) -> None:
    """Give the replicas that a runner computes on their workers again when machines return that they had lost.

    Machines that are new are left alone: a job that ends seldom lasts until they are measured and planned for.
    """
    joining = Joining(machines, running, None, wake=runner.wake)
    runner.watch(joining.look, joining.close)
    joining.start()


class GraphSupervisor:
    """Belongs to the engine's thread, but for what says otherwise. Close it before the engine."""

    def __init__(
        self,
        running: RunningPlan[GraphPlan, GraphReplicaPlan, BatchStats],
        machines: Machines | None,
        engine: BatchEngine,
        *,
        replanner: GraphReplanner | None,
        growth: Growth[PlacedGraphFleet, GraphReplicaPlan] | None,
    ) -> None:
        """Look after it from now on.

        Args:
            running: the plan and its engine.
            machines: that the graph runs on; None: this one.
            engine: that runs it.
            replanner: moves nodes where workers change speed; None: they stay.
            growth: what to do with machines that join; None: they are not to be used.
        """
        self._machines, self._running = machines, running
        if replanner is not None:
            engine.watch(replanner.look)
        self.joining: Joining[GraphReplicaPlan] | None = None
        """watches the machines; None: there is only this one"""
        if machines is not None:
            self.joining = Joining(machines, running, growth, wake=engine.wake)
            engine.watch(self.joining.look)
            self.joining.start()

    @property
    def plan(self) -> GraphPlan:
        """As it runs now: replicas that do without a worker as they do. Thread-safe."""
        return self._running.actual

    @property
    def trouble(self) -> str | None:
        """Why this process will end soon for what has become of the machines; None: it will not. Thread-safe."""
        return None if self.joining is None else self.joining.trouble

    def describe_machines(self) -> list[dict[str, str]]:
        """What each machine does, as plain data; nothing where there is only this one. Thread-safe."""
        return [] if self._machines is None else describe_machines(self._machines, self.plan.shards)

    def strike(self, machine: str, strike: Strike) -> None:
        """See `Machines.strike`. Thread-safe. Raises ConfigError: there is no machine but this one."""
        if self._machines is None:
            raise ConfigError("this graph runs only on the server's own machine")
        self._machines.strike(machine, strike)

    def on_headless(self, leave: Callable[[str], None]) -> None:
        """See `Joining.on_headless`."""
        if self.joining is not None:
            self.joining.on_headless(leave)

    def close(self) -> None:
        """Look after it no longer. Idempotent."""
        if self.joining is not None:
            self.joining.close()
        self._running.close()
