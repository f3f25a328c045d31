"""Interfaces of loaded ONNX graphs that models in service need, and that tests can fake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from shoal.core.plan.graph import GraphPlan
from shoal.core.recovery.config import RecoveryConfig
from shoal.executor.remote.strikes import Strike
from shoal.router.batch_engine import BatchEngine
from shoal.router.graph_executor import GraphExecutor, GraphReplicaFactory, Tensors


class Supervisor(Protocol):
    """Supervises the plan and the machines of a graph while it is served."""

    @property
    def plan(self) -> GraphPlan:
        """The present plan."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why this process will end soon because of its machines; None: it will not."""
        ...

    def describe_machines(self) -> list[dict[str, str]]:
        """`name` and `state` of each machine, if there are several."""
        ...

    def strike(self, machine: str, strike: Strike) -> None:
        """Carry out a drill's fault on a machine; blocks for a moment. Raises ConfigError, WorkerLost."""
        ...

    def on_headless(self, leave: Callable[[str], None]) -> None:
        """Register a function that is called, in any thread, when this process should end by itself."""
        ...

    def close(self) -> None:
        """End the supervision. Must be called before the engine is closed. Idempotent."""
        ...


class ServableGraph(Protocol):
    """A graph whose workers are ready."""

    @property
    def plan(self) -> GraphPlan:
        """The model's split, inputs and outputs."""
        ...

    @property
    def executors(self) -> Sequence[GraphExecutor]:
        """The executors, one for each replica."""
        ...

    @property
    def factories(self) -> Sequence[GraphReplicaFactory]:
        """Factories that start workers again, one for each replica; empty: a lost replica stays lost."""
        ...

    @property
    def recovery(self) -> RecoveryConfig:
        """The rules by which lost workers are restarted."""
        ...

    @property
    def row_s(self) -> Sequence[float]:
        """Seconds that the workers of each replica took for a row of the sample; empty: not known."""
        ...

    @property
    def supervise(self) -> Callable[[BatchEngine, Callable[[], float]], Supervisor]:
        """Makes the supervisor for an engine that runs the graph, given its clock."""
        ...

    @property
    def sample(self) -> Tensors:
        """Small valid inputs, for canaries."""
        ...

    @property
    def defaults(self) -> Tensors:
        """Default values of optional inputs."""
        ...

    def close(self) -> None:
        """Stop the workers and free everything. Idempotent."""
        ...


GraphLoader = Callable[[Path], ServableGraph]
"""Loads an ONNX file and starts its workers; blocks until they are ready. Raises ShoalError.

Must be called on threads that live as long as the server, since the kernel ends workers with the thread that started
them.
"""
