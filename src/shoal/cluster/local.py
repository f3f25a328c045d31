"""A replica as child processes on this machine: steps over sockets, hidden states over shared-memory rings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from shoal.cluster.child_process import close_all
from shoal.cluster.worker_process import WorkerProcess
from shoal.comm.ring_link import create_ring
from shoal.comm.shm_group import create_group_memory
from shoal.errors import ShoalError, WorkerLost
from shoal.protocol.codec import encode
from shoal.protocol.messages import LoadStage, Progress, StageLoaded, Step, StepResult

_LOAD_TIMEOUT_S = 600.0
"""From the last sign of progress; a large model on a slow disk loads for minutes but shows progress."""
_RING_STEPS = 3
"""Steps' worth of hidden states that a ring holds, so that a sender never waits for a receiver that computes."""


class LocalExecutor:
    """A pipeline of child processes, with one or several shards in a stage. Implements `router.executor.Executor`."""

    def __init__(self, name: str, stages: Sequence[Sequence[LoadStage]], hidden_size: int) -> None:
        """Starts one process a shard and tells each what to load; `wait_until_loaded` must follow.

        Args:
            name: of the replica, for messages.
            stages: for each stage what its shards load, in the order of their ranks.
            hidden_size: width of the hidden states between stages.
        """
        self._num_stages = len(stages)
        self._workers: list[WorkerProcess] = []
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._start(name, stages, hidden_size)
            on_failure.pop_all()

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline."""
        return self._num_stages

    def wait_until_loaded(self, on_progress: Callable[[int], None]) -> None:
        """Block until every worker is ready; `on_progress(n)` counts segments as they load.

        Raises:
            ModelLoadError, ConfigError, CapacityError: what a worker failed with.
            WorkerLost: a worker died, or gave no sign of life for ten minutes.
        """
        try:
            for worker in self._workers:
                self._wait_for(worker, on_progress)
        except WorkerLost as error:
            raise self._first_cause(error) from error

    def _wait_for(self, worker: WorkerProcess, on_progress: Callable[[int], None]) -> None:
        deadline_s = time.monotonic() + _LOAD_TIMEOUT_S
        while True:
            match worker.receive(max(0.0, deadline_s - time.monotonic())):
                case Progress():
                    deadline_s = time.monotonic() + _LOAD_TIMEOUT_S
                    on_progress(1)
                case StageLoaded():
                    return
                case None:
                    raise WorkerLost(f"{worker.name} gave no sign of life for {_LOAD_TIMEOUT_S:.0f} s")
                case message:
                    raise WorkerLost(f"{worker.name} answered LoadStage with {type(message).__name__}")

    def _first_cause(self, error: WorkerLost) -> ShoalError:
        """A shard that cannot load leaves its group, and the others say they lost it: what it says itself counts."""
        for worker in self._workers:
            try:
                while worker.receive(0.0) is not None:
                    pass
            except WorkerLost:
                continue
            except ShoalError as cause:
                return cause
        return error

    def submit(self, step: Step) -> None:
        """Send a step to every worker at once."""
        frame = encode(step)
        for worker in self._workers:
            worker.send(frame)

    def poll(self) -> list[StepResult]:
        """Results that have come; also notices a worker that is gone."""
        results: list[StepResult] = []
        for worker in self._workers:
            while (message := worker.receive(0.0)) is not None:
                if not isinstance(message, StepResult):
                    raise WorkerLost(f"{worker.name} sent {type(message).__name__} while running")
                results.append(message)
        return results

    def filenos(self) -> tuple[int, ...]:
        """One descriptor a worker."""
        return tuple(worker.fileno() for worker in self._workers)

    def worker_pids(self) -> tuple[int, ...]:
        """Process ids, stage by stage, rank by rank."""
        return tuple(worker.pid for worker in self._workers)

    def close(self) -> None:
        """End every worker."""
        close_all(self._workers)

    def _start(self, name: str, stages: Sequence[Sequence[LoadStage]], hidden_size: int) -> None:
        capacity = _RING_STEPS * stages[0][0].max_step_tokens * hidden_size * 4 + (1 << 16)
        with ExitStack() as fds:
            upstream: list[int | None] = [None] * len(stages[0])
            for index, loads in enumerate(stages):
                num_next = len(stages[index + 1]) if index + 1 < len(stages) else 0
                downstream = [_kept(create_ring(capacity), fds) for _ in range(num_next)]
                group = _kept(create_group_memory(len(loads)), fds) if len(loads) > 1 else None
                for rank, load in enumerate(loads):
                    label = f"{name} stage {index}" + (f" shard {rank}" if len(loads) > 1 else "")
                    worker = WorkerProcess(label, upstream[rank], downstream[rank :: len(loads)], group)
                    self._workers.append(worker)
                    worker.load(load)
                upstream = list(downstream)


def _kept(fd: int, fds: ExitStack) -> int:
    """This descriptor, to be closed with `fds`."""
    fds.callback(os.close, fd)
    return fd
