"""The first start of a replica's workers, before there is an engine that restarts what is lost."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any, Generic, Protocol, TypeVar

from shoal.core.recovery.config import RecoveryConfig
from shoal.errors import WorkerLost
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.protocol.worker_messages import Generation
from shoal.router.replica_workers import counted_as_failed

_logger = logging.getLogger("shoal.launch")

_FIRST_LOAD_TIMES = 6.0
"""Multiple of the loading time-out for a first start, because the file may be on a slow disk and nothing is known yet.
A judgment."""

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")
LimitsT_co = TypeVar("LimitsT_co", covariant=True)


class PipelineFactory(Protocol[WorkT, ResultT, LimitsT_co]):
    """The `router.executor.ReplicaFactory` of a pipeline."""

    def start(
        self, generation: Generation, without: int | None, previous: Any
    ) -> tuple[LimitsT_co, PipelineExecutor[WorkT, ResultT]]:
        """See `ReplicaFactory.start`."""
        ...


class FirstStart(Generic[WorkT, ResultT, LimitsT_co]):
    """A start that begins at once and is waited for later, so that all replicas load together. Lost workers are
    restarted."""

    def __init__(
        self,
        factory: PipelineFactory[WorkT, ResultT, LimitsT_co],
        recovery: RecoveryConfig,
        on_failure: ExitStack,
    ) -> None:
        """Begin to start the workers.

        Args:
            factory: the replica's factory.
            recovery: time-outs, and how often one worker may be lost in a row.
            on_failure: closes the started workers if the start fails.

        Raises: as `wait`.
        """
        self._factory = factory
        self._on_failure = on_failure
        self._silence_s = _FIRST_LOAD_TIMES * recovery.load_timeout_s
        self._attempts_left = recovery.replan_after
        self._limits, self._executor = self._begin()

    def wait(self) -> tuple[LimitsT_co, PipelineExecutor[WorkT, ResultT]]:
        """Wait until the workers are ready. Returns their limits and their executor.

        Raises:
            ModelLoadError, ConfigError, CapacityError: the error of a worker that failed.
            WorkerLost: workers were repeatedly lost.
        """
        while True:
            try:
                self._executor.wait_until_loaded(self._silence_s)
            except WorkerLost as error:
                self._note(error)
                self._executor.close()
                self._limits, self._executor = self._begin()
            else:
                return self._limits, self._executor

    def _begin(self) -> tuple[LimitsT_co, PipelineExecutor[WorkT, ResultT]]:
        while True:
            try:
                with counted_as_failed():
                    limits, executor = self._factory.start(Generation(0), None, None)
            except WorkerLost as error:
                self._note(error)
            else:
                self._on_failure.callback(executor.close)
                return limits, executor

    def _note(self, error: WorkerLost) -> None:
        self._attempts_left -= 1
        if not self._attempts_left:
            raise error
        _logger.info(f"workers were lost while loading and are started again: {error}")
