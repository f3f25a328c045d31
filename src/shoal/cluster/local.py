"""A replica as child processes on this machine: steps over sockets, hidden states over shared-memory rings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from shoal.cluster.child_process import close_all
from shoal.cluster.cpu_quota import held
from shoal.cluster.worker_process import WorkerProcess
from shoal.comm.ring_link import create_ring
from shoal.comm.shm_group import create_group_memory
from shoal.errors import ShoalError, WorkerLost
from shoal.protocol.codec import encode
from shoal.protocol.messages import LoadStage, Message, Progress, StageLoaded, Step, StepResult

_LOAD_TIMEOUT_S = 600.0
"""From the last sign of progress; a large model on a slow disk loads for minutes but shows progress."""
_RING_STEPS = 3
"""Steps' worth of hidden states that a ring holds, so that a sender never waits for a receiver that computes."""


class LocalExecutor:
    """A pipeline of child processes, with one or several shards in a stage.

    Implements `router.executor.StartingExecutor`.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Sequence[LoadStage]],
        hidden_size: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Starts one process a shard and tells each what to load; no step before `poll_loading` says so.

        Args:
            name: of the replica, for messages.
            stages: for each stage what its shards load, in the order of their ranks.
            hidden_size: width of the hidden states between stages.
            on_progress: called with a number of segments as they load.
        """
        self._num_stages = len(stages)
        self._workers: list[WorkerProcess] = []
        self._quotas = ExitStack()
        """control groups of workers that are held to a part of their cores"""
        self._on_progress = on_progress or (lambda count: None)
        self._loading: dict[int, WorkerProcess] = {}
        """workers that are not ready, by their place"""
        self._stage_row_s = [0.0] * len(stages)
        self._stage_of = [index for index, loads in enumerate(stages) for _ in loads]
        self._culprit: int | None = None
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._start(name, stages, hidden_size)
            on_failure.pop_all()
        self._loading = dict(enumerate(self._workers))

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline."""
        return self._num_stages

    @property
    def row_s(self) -> float:
        """Seconds for a single row to pass all stages, once they are loaded."""
        return sum(self._stage_row_s)

    @property
    def culprit(self) -> int | None:
        """The worker that failed to load; None: none did."""
        return self._culprit

    def poll_loading(self) -> bool:
        """See `StartingExecutor.poll_loading`."""
        self._look(0.0)
        return not self._loading

    def wait_until_loaded(self) -> None:
        """Block until every worker is ready.

        Raises:
            ModelLoadError, ConfigError, CapacityError: what a worker failed with.
            WorkerLost: a worker died, or gave no sign of life for ten minutes.
        """
        while self._loading:
            self._look(_LOAD_TIMEOUT_S)

    def _look(self, timeout_s: float) -> None:
        """Take in what loading workers have said, after waiting for the first of them to say something."""
        for index, worker in list(self._loading.items()):
            try:
                while index in self._loading and (message := worker.receive(timeout_s)) is not None:
                    self._take(index, message)
                    timeout_s = 0.0
            except ShoalError as error:
                raise self._first_cause(index, error) from error
            if timeout_s:
                raise WorkerLost(f"{worker.name} gave no sign of life for {timeout_s:.0f} s")

    def _take(self, index: int, message: Message) -> None:
        match message:
            case Progress():
                self._on_progress(1)
            case StageLoaded(row_s=row_s):
                stage = self._stage_of[index]
                self._stage_row_s[stage] = max(self._stage_row_s[stage], row_s)
                del self._loading[index]
            case _:
                raise WorkerLost(f"{self._workers[index].name} answered LoadStage with {type(message).__name__}")

    def _first_cause(self, index: int, error: ShoalError) -> ShoalError:
        """A shard that cannot load leaves its group, and the others say they lost it: what it says itself counts."""
        causes = {index: error}
        for other, worker in enumerate(self._workers):
            if other != index and (cause := worker.failure()) is not None:
                causes[other] = cause
        self._culprit = min(causes, key=lambda one: (isinstance(causes[one], WorkerLost), not self._was_killed(one)))
        return causes[self._culprit]

    def _was_killed(self, index: int) -> bool:
        return self._workers[index].was_killed

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

    def kill(self) -> bool:
        """End every worker without waiting for it; whether all have ended."""
        num_ended = sum(worker.kill() for worker in self._workers)
        if num_ended < len(self._workers):
            return False
        self._quotas.close()
        return True

    def close(self) -> None:
        """End every worker."""
        close_all(self._workers)
        self._quotas.close()

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
                    if load.cpu_quota is not None:
                        quota = held(worker.pid, load.cpu_quota, num_cores=max(1, len(load.cores)))
                        self._quotas.enter_context(quota)
                    worker.load(load)
                upstream = list(downstream)


def _kept(fd: int, fds: ExitStack) -> int:
    """This descriptor, to be closed with `fds`."""
    fds.callback(os.close, fd)
    return fd
