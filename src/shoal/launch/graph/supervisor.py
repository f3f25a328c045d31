"""The supervisor of an ONNX graph while it is served: its plan and its machines."""

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
    """The plan kind of ONNX graphs. Implements `PlanKind`."""

    def __init__(self, path: Path, files: tuple[FileState, ...], launcher: WorkerLauncher, trial: BatchTrial) -> None:
        """
        Args:
            path: the path of the graph's file.
            files: the states of the graph's files when it was opened.
            launcher: makes workers.
            trial: the work that new workers compute before they count as ready.
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
    """The part of `offline.pull.ChunkRunner` that a supervision needs."""

    def watch(self, watcher: Callable[[], None], close: Callable[[], None]) -> None:
        """See `ChunkRunner.watch`."""
        ...

    def wake(self) -> None:
        """See `ChunkRunner.wake`."""
        ...


def take_back(
    running: RunningPlan[GraphPlan, GraphReplicaPlan, Any], machines: Machines, runner: WatchedRunner
) -> None:
    """Restore the replicas of a runner when machines that they had lost return.

    New machines are not used: a job rarely lasts until they are measured and planned for.
    """
    joining = Joining(machines, running, None, wake=runner.wake)
    runner.watch(joining.look, joining.close)
    joining.start()


class GraphSupervisor:
    """Supervises a served graph. For the engine's thread, except where noted. It must be closed before the engine."""

    def __init__(
        self,
        running: RunningPlan[GraphPlan, GraphReplicaPlan, BatchStats],
        machines: Machines | None,
        engine: BatchEngine,
        *,
        replanner: GraphReplanner | None,
        growth: Growth[PlacedGraphFleet, GraphReplicaPlan] | None,
    ) -> None:
        """Start the supervision.

        Args:
            running: the plan and its engine.
            machines: the machines on which the graph runs; None: this one.
            engine: the engine that runs it.
            replanner: moves nodes when workers change speed; None: they stay.
            growth: plans for machines that join; None: these are not used.
        """
        self._machines, self._running = machines, running
        if replanner is not None:
            engine.watch(replanner.look)
        self.joining: Joining[GraphReplicaPlan] | None = None
        """Watches the machines; None: there is only this one."""
        if machines is not None:
            self.joining = Joining(machines, running, growth, wake=engine.wake)
            engine.watch(self.joining.look)
            self.joining.start()

    @property
    def plan(self) -> GraphPlan:
        """The plan that runs now, including replicas that run without a worker. Thread-safe."""
        return self._running.actual

    @property
    def trouble(self) -> str | None:
        """Why this process will end soon because of its machines; None: it will not. Thread-safe."""
        return None if self.joining is None else self.joining.trouble

    def describe_machines(self) -> list[dict[str, str]]:
        """The state of each machine as plain data; empty if there is only this one. Thread-safe."""
        return [] if self._machines is None else describe_machines(self._machines, self.plan.shards)

    def strike(self, machine: str, strike: Strike) -> None:
        """See `Machines.strike`. Thread-safe. Raises ConfigError if there is only this machine."""
        if self._machines is None:
            raise ConfigError("this graph runs only on the server's own machine")
        self._machines.strike(machine, strike)

    def on_headless(self, leave: Callable[[str], None]) -> None:
        """See `Joining.on_headless`."""
        if self.joining is not None:
            self.joining.on_headless(leave)

    def close(self) -> None:
        """End the supervision. Idempotent."""
        if self.joining is not None:
            self.joining.close()
        self._running.close()
