"""The common base of engines, which own the workers of their replicas and let watchers change these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic

from shoal.core.story import Story
from shoal.protocol.worker_messages import Generation
from shoal.router.executor import Executor, ReplicaFactory, ResultT, WorkT
from shoal.router.replica_workers import LimitsT, Replaced
from shoal.router.worker_set import WorkerSet


class ReplicaOwner(ABC, Generic[WorkT, ResultT, LimitsT]):
    """Owns the workers of a model's replicas. One thread calls all methods; only `wake` may be called from another."""

    def __init__(self, workers: WorkerSet[WorkT, ResultT, LimitsT]) -> None:
        """Take over the workers."""
        self._workers = workers
        self._watchers: list[Callable[[], None]] = []
        self._closers: list[Callable[[], None]] = []

    def watch(self, watcher: Callable[[], None], close: Callable[[], None] | None = None) -> None:
        """Add a watcher of the replicas.

        Args:
            watcher: called in every turn, in the owner's thread. It may replace and add replicas.
            close: called once, before the workers are stopped; None: nothing is called.
        """
        self._watchers.append(watcher)
        if close is not None:
            self._closers.append(close)

    def wake(self) -> None:
        """End the wait of the current or the next turn, so that watchers are called. Thread-safe."""
        self._workers.wake()

    @property
    def executors(self) -> list[Executor[WorkT, ResultT]]:
        """Executors of the replicas that have their workers; read-only for callers."""
        return self._workers.serving

    @property
    def story(self) -> Story:
        """The story of the replicas."""
        return self._workers.log.story

    def replace_replica(
        self, index: int, factory: ReplicaFactory[WorkT, ResultT, LimitsT], done: Replaced | None = None
    ) -> None:
        """Start new workers for a replica, which take over its work when they are ready.

        Returns at once; later turns do the rest. Until then, and if it fails, the old workers continue.

        Args:
            index: the index of the replica.
            factory: starts these workers and all that follow them.
            done: called with None when the new workers have taken over, or with the error if they never will.

        Raises:
            ShoalError: the new workers could not be started.
        """
        self._workers.replace(index, factory, Generation(self._generation_of(index) + 1), done)

    def add_replica(self, factory: ReplicaFactory[WorkT, ResultT, LimitsT], done: Replaced | None = None) -> None:
        """Start another replica, which joins once its workers are ready. Returns at once.

        Args:
            factory: starts its workers.
            done: called with None when they are about to join, or with the error if they never will.

        Raises:
            ShoalError: the workers could not be started.
        """
        self._workers.add(factory, done)

    def close(self) -> None:
        """Stop all workers; unfinished requests get no result. Idempotent."""
        while self._closers:
            self._closers.pop()()
        self._watchers.clear()  # they may hold the model's file open
        self._workers.close()

    @abstractmethod
    def _generation_of(self, index: int) -> Generation:
        """The generation of the workers that a replica has, or will have next."""

    def _call_watchers(self) -> None:
        """Call all watchers; to be called in every turn."""
        for watcher in self._watchers:
            watcher()
