"""What engines have in common: they own the workers of their replicas, and let others look after these."""

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
    """Belongs to one thread; only `wake` may be called from another."""

    def __init__(self, workers: WorkerSet[WorkT, ResultT, LimitsT]) -> None:
        """Own these workers from now on."""
        self._workers = workers
        self._watchers: list[Callable[[], None]] = []
        self._closers: list[Callable[[], None]] = []

    def watch(self, watcher: Callable[[], None], close: Callable[[], None] | None = None) -> None:
        """Let someone look after the replicas.

        Args:
            watcher: called in every turn, in the owner's thread. It may replace and add replicas.
            close: called once, before the workers are stopped; None: nothing is.
        """
        self._watchers.append(watcher)
        if close is not None:
            self._closers.append(close)

    def wake(self) -> None:
        """Make a waiting or the next turn end, so that watchers are called. Thread-safe."""
        self._workers.wake()

    @property
    def executors(self) -> list[Executor[WorkT, ResultT]]:
        """Of the replicas that have their workers, to look at only."""
        return self._workers.serving

    @property
    def story(self) -> Story:
        """What has happened to the replicas lately."""
        return self._workers.log.story

    def replace_replica(
        self, index: int, factory: ReplicaFactory[WorkT, ResultT, LimitsT], done: Replaced | None = None
    ) -> None:
        """Start other workers for a replica; when they are ready it goes on with them, and so does its work.

        Returns at once; the turns to come do it. Until then, and where it fails, the old workers go on.

        Args:
            index: of the replica.
            factory: for these workers and all that follow them.
            done: told None when the new workers have taken over, or why they never will.

        Raises:
            ShoalError: the new workers cannot even be started.
        """
        self._workers.replace(index, factory, Generation(self._generation_of(index) + 1), done)

    def add_replica(self, factory: ReplicaFactory[WorkT, ResultT, LimitsT], done: Replaced | None = None) -> None:
        """Start one more replica, which takes part once its workers are ready. Returns at once.

        Args:
            factory: for its workers.
            done: told None when they are about to take part, or why they never will.

        Raises:
            ShoalError: they cannot even be started.
        """
        self._workers.add(factory, done)

    def close(self) -> None:
        """Stop every worker; what is unfinished gets no result. Idempotent."""
        while self._closers:
            self._closers.pop()()
        self._watchers.clear()  # they may hold the model's file open
        self._workers.close()

    @abstractmethod
    def _generation_of(self, index: int) -> Generation:
        """Of the workers that a replica has, or will have next."""

    def _call_watchers(self) -> None:
        """To be called in every turn."""
        for watcher in self._watchers:
            watcher()
