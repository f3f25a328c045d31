"""What the server needs from whoever loads ONNX graphs, as interfaces that tests can fake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from shoal.core.plan.graph import GraphPlan
from shoal.core.recovery.config import RecoveryConfig
from shoal.router.batch_engine import BatchEngine
from shoal.router.graph_executor import GraphExecutor, GraphReplicaFactory, Tensors


class LoadedGraph(Protocol):
    """A graph whose workers are ready."""

    @property
    def plan(self) -> GraphPlan:
        """How it is split, and its inputs and outputs."""
        ...

    @property
    def executors(self) -> Sequence[GraphExecutor]:
        """One a replica."""
        ...

    @property
    def factories(self) -> Sequence[GraphReplicaFactory]:
        """How workers are started again, one a replica; empty: a lost replica stays lost."""
        ...

    @property
    def recovery(self) -> RecoveryConfig:
        """How lost workers are restarted."""
        ...

    @property
    def row_s(self) -> Sequence[float]:
        """Seconds that the workers of each replica took for a row of the sample; empty: not known."""
        ...

    @property
    def replanner(self) -> Callable[[BatchEngine, Callable[[], float]], Callable[[], None]] | None:
        """Makes what moves nodes between stages that change speed; None: the plan never changes."""
        ...

    @property
    def sample(self) -> Tensors:
        """Small valid inputs, for canaries."""
        ...

    @property
    def defaults(self) -> Tensors:
        """Of inputs that may be left out."""
        ...

    def close(self) -> None:
        """Stop the workers and free everything. Idempotent."""
        ...


GraphLoader = Callable[[Path], LoadedGraph]
"""Loads an ONNX file and starts its workers; blocks for as long as that takes. Raises ShoalError.

Always called on threads that live as long as the server: the kernel ends workers with the thread that started them.
"""
