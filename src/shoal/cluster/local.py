"""A replica as child processes on this machine: steps over sockets, hidden states over shared-memory rings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from shoal.cluster.child_process import close_all
from shoal.cluster.worker_process import WorkerProcess
from shoal.comm.ring_link import create_ring
from shoal.errors import WorkerLost
from shoal.protocol.codec import encode
from shoal.protocol.messages import LoadStage, Progress, StageLoaded, Step, StepResult

_LOAD_TIMEOUT_S = 600.0
"""From the last sign of progress; a large model on a slow disk loads for minutes but shows progress."""
_RING_STEPS = 3
"""Steps' worth of hidden states that a ring holds, so that a sender never waits for a receiver that computes."""


class LocalExecutor:
    """A pipeline of child processes. Implements `router.executor.Executor`."""

    def __init__(self, name: str, loads: Sequence[LoadStage], hidden_size: int) -> None:
        """Starts one process a stage and tells each what to load; `wait_until_loaded` must follow."""
        self._workers: list[WorkerProcess] = []
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._start(name, loads, hidden_size)
            on_failure.pop_all()

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline."""
        return len(self._workers)

    def wait_until_loaded(self, on_progress: Callable[[int], None]) -> None:
        """Block until every worker is ready; `on_progress(n)` counts segments as they load.

        Raises:
            ModelLoadError, ConfigError, CapacityError: what a worker failed with.
            WorkerLost: a worker died, or gave no sign of life for ten minutes.
        """
        for worker in self._workers:
            deadline_s = time.monotonic() + _LOAD_TIMEOUT_S
            while True:
                match worker.receive(max(0.0, deadline_s - time.monotonic())):
                    case Progress():
                        deadline_s = time.monotonic() + _LOAD_TIMEOUT_S
                        on_progress(1)
                    case StageLoaded():
                        break
                    case None:
                        raise WorkerLost(f"{worker.name} gave no sign of life for {_LOAD_TIMEOUT_S:.0f} s")
                    case message:
                        raise WorkerLost(f"{worker.name} answered LoadStage with {type(message).__name__}")

    def submit(self, step: Step) -> None:
        """Send a step to every stage at once."""
        frame = encode(step)
        for worker in self._workers:
            worker.send(frame)

    def poll(self) -> list[StepResult]:
        """Results that have come; also notices a stage that is gone."""
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
        """Process ids, first stage first."""
        return tuple(worker.pid for worker in self._workers)

    def close(self) -> None:
        """End every worker."""
        close_all(self._workers)

    def _start(self, name: str, loads: Sequence[LoadStage], hidden_size: int) -> None:
        with ExitStack() as fds:
            capacity = _RING_STEPS * loads[0].max_step_tokens * hidden_size * 4 + (1 << 16)
            rings: list[int | None] = [None]
            for _ in loads[1:]:
                ring = create_ring(capacity)
                fds.callback(os.close, ring)
                rings.append(ring)
            rings.append(None)
            for index, load in enumerate(loads):
                worker = WorkerProcess(f"{name} stage {index}", rings[index], rings[index + 1])
                self._workers.append(worker)
                worker.load(load)
