"""What models in service need from whoever loads ONNX graphs, as interfaces that tests can fake."""

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
    """What looks after a graph while it is served."""

    @property
    def plan(self) -> GraphPlan:
        """As it runs now."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why this process will end soon for what has become of the machines; None: it will not."""
        ...

    def describe_machines(self) -> list[dict[str, str]]:
        """`name` and `state` of each machine, where there are several."""
        ...

    def strike(self, machine: str, strike: Strike) -> None:
        """Do to a machine what a drill asks for; blocks for a moment. Raises ConfigError, WorkerLost."""
        ...

    def on_headless(self, leave: Callable[[str], None]) -> None:
        """Call this, in any thread, when this process should end by itself before its cluster ends it."""
        ...

    def close(self) -> None:
        """Look after it no longer. To be called before the engine is closed. Idempotent."""
        ...


class ServableGraph(Protocol):
    """A graph whose workers are ready."""

    @property
    def plan(self) -> GraphPlan:
        """The model's split, inputs and outputs."""
        ...

    @property
    def executors(self) -> Sequence[GraphExecutor]:
        """The executors, one a replica."""
        ...

    @property
    def factories(self) -> Sequence[GraphReplicaFactory]:
        """What starts workers again, one a replica; empty: a lost replica stays lost."""
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
        """Makes what looks after the plan and the machines while an engine runs the graph, by its clock."""
        ...

    @property
    def sample(self) -> Tensors:
        """Small valid inputs, for canaries."""
        ...

    @property
    def defaults(self) -> Tensors:
        """Values of the inputs that may be left out."""
        ...

    def close(self) -> None:
        """Stop the workers and free everything. Idempotent."""
        ...


GraphLoader = Callable[[Path], ServableGraph]
"""Loads an ONNX file and starts its workers; blocks for as long as that takes. Raises ShoalError.

Always called on threads that live as long as the server: the kernel ends workers with the thread that started them.
"""
