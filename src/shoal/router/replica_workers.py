"""The executors of one replica: the one that serves or is starting, its possible replacement, and old ones that end."""

from __future__ import annotations

import select
from collections.abc import Callable, Generator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from shoal.errors import ShoalError, WorkerLost
from shoal.protocol.worker_messages import Generation
from shoal.router.executor import Executor, ReplicaFactory, ResultT, StartingExecutor, WorkT

_REPLACEMENT_TIMEOUT_S = 600.0
"""Time-out of workers that will replace running ones, since the last sign of progress. Long, because no request waits
for them."""

LimitsT = TypeVar("LimitsT")
Replaced = Callable[[ShoalError | None], None]
"""Called with None when a replacement serves, or with the error if it never will."""


@contextmanager
def counted_as_failed() -> Generator[None]:
    """Raise WorkerLost if the system refuses processes, descriptors or memory, which it may have the next time.

    Such a start counts as a failed attempt like any other (decision 0008).
    """
    try:
        yield
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise WorkerLost(f"the system has no room for new workers: {reason}") from error


@dataclass(frozen=True, slots=True)
class _Loading(Generic[WorkT, ResultT, LimitsT]):
    """Workers that were started and are not ready yet."""

    limits: LimitsT
    executor: StartingExecutor[WorkT, ResultT]


@dataclass(slots=True)
class _Replacement(Generic[WorkT, ResultT, LimitsT]):
    """Loading workers that will replace others."""

    workers: _Loading[WorkT, ResultT, LimitsT]
    factory: ReplicaFactory[WorkT, ResultT, LimitsT]
    done: Replaced
    last_sign_s: float


@dataclass(frozen=True, slots=True)
class Ready(Generic[LimitsT]):
    """Workers that are ready for work."""

    limits: LimitsT
    row_s: float


class ReplicaWorkers(Generic[WorkT, ResultT, LimitsT]):
    """The executors of one replica, whose descriptors are registered with an epoll set while they may have messages."""

    def __init__(
        self,
        executor: Executor[WorkT, ResultT] | None,
        factory: ReplicaFactory[WorkT, ResultT, LimitsT] | None,
        epoll: select.epoll,
    ) -> None:
        """Take over the serving executor; None: there is none yet. Without a factory no workers can be started."""
        self._factory = factory
        self._epoll = epoll
        self._serving = executor
        self._loading: _Loading[WorkT, ResultT, LimitsT] | None = None
        self._replacement: _Replacement[WorkT, ResultT, LimitsT] | None = None
        self._fenced: Executor[WorkT, ResultT] | None = None
        """The fenced executor of lost workers, of which some may be used again."""
        self._ending: list[Executor[WorkT, ResultT]] = []
        self._num_out = 0
        """Pieces of work that were submitted and not answered."""
        if executor is not None:
            self._watch(executor)

    @property
    def computes_here(self) -> bool:
        """Whether there is work or loading to do in this process, by polling."""
        if self._loading is not None:
            return not self._loading.executor.filenos()
        return self._serving is not None and bool(self._num_out) and not self._serving.filenos()

    @property
    def is_ending(self) -> bool:
        """Whether processes were told to end and have not ended yet."""
        return bool(self._ending)

    @property
    def has_replacement(self) -> bool:
        """Whether a replacement is loading."""
        return self._replacement is not None

    @property
    def serving(self) -> Executor[WorkT, ResultT] | None:
        """The serving executor; read-only for callers."""
        return self._serving

    @property
    def failed_worker(self) -> int | None:
        """The worker that the latest failure to load was about; None: not known."""
        return None if self._loading is None else self._loading.executor.failed_worker

    @property
    def silent(self) -> int | None:
        """The only starting worker that is not ready; None: not known."""
        return None if self._loading is None else self._loading.executor.silent

    @property
    def waiting_for(self) -> str:
        """The starting workers that are not ready, for messages."""
        return "" if self._loading is None else self._loading.executor.waiting_for

    def submit(self, work: WorkT) -> None:
        """Send a piece of work to the workers. Raises WorkerLost."""
        assert self._serving is not None
        self._serving.submit(work)
        self._num_out += 1

    def poll(self) -> list[ResultT]:
        """Return the answered work. Raises ShoalError if the workers are lost."""
        if self._serving is None:
            return []
        results = self._serving.poll()
        self._num_out -= len(results)
        return results

    def start(self, generation: Generation, without: int | None) -> None:
        """Start the workers again. Raises ShoalError if they cannot be started."""
        if self._factory is None:
            raise WorkerLost("its workers cannot be started again")
        try:
            with counted_as_failed():
                self._loading = _Loading(*self._factory.start(generation, without, self._fenced))
            self._watch(self._loading.executor)
        finally:
            self.end_fenced()

    def is_loading_at(self, fds: AbstractSet[int]) -> bool:
        """Whether to poll starting workers: one of these descriptors is theirs, or they have none."""
        if self._loading is None:
            return False
        own = self._loading.executor.filenos()
        return not own or not fds.isdisjoint(own)

    def poll_loading(self) -> Ready[LimitsT] | None:
        """Poll starting workers. When they are ready they serve, and are returned. Raises ShoalError if they fail."""
        loading = self._loading
        with counted_as_failed():
            if loading is None or not loading.executor.poll_loading():
                return None
        return self._take_over(loading)

    def begin_replacement(
        self,
        factory: ReplicaFactory[WorkT, ResultT, LimitsT],
        generation: Generation,
        done: Replaced,
        now_s: float,
    ) -> None:
        """Start a replacement beside the serving workers and drop an earlier one. Raises ShoalError."""
        self._drop_replacement(WorkerLost("another replacement was asked for"))
        with counted_as_failed():
            workers = _Loading(*factory.start(generation, None, None))
        self._replacement = _Replacement(workers, factory, done, now_s)
        self._watch(workers.executor)

    def poll_replacement(self, fds: AbstractSet[int], now_s: float) -> Ready[LimitsT] | None:
        """Poll the replacement. When it is ready it serves, and is returned, and the former workers end."""
        new = self._replacement
        if new is None:
            return None
        try:
            if not fds.isdisjoint(new.workers.executor.filenos()):
                new.last_sign_s = now_s
                with counted_as_failed():
                    is_loaded = new.workers.executor.poll_loading()
                if is_loaded:
                    return self._replace(new)
            if now_s - new.last_sign_s > _REPLACEMENT_TIMEOUT_S:
                raise WorkerLost(f"no sign of life within {_REPLACEMENT_TIMEOUT_S:.0f} s")
        except ShoalError as error:
            self._drop_replacement(error)
        return None

    def stop(self, *, keep: bool) -> None:
        """Stop the serving or starting workers.

        Args:
            keep: whether to keep survivors for the next `start`, which must follow, or `end_fenced`; otherwise all end.
        """
        executor = self._loading.executor if self._loading else self._serving
        self._serving = self._loading = None
        if executor is not None:
            self._unwatch(executor)
            executor.fence()
            self._fenced = executor
        if not keep:
            self.end_fenced()

    def end_fenced(self) -> None:
        """End the survivors of lost workers, without waiting for them."""
        if self._fenced is not None:
            self._ending.append(self._fenced)
            self._fenced = None
            self.reap()

    def reap(self) -> None:
        """Forget ending executors whose processes have ended."""
        for executor in [executor for executor in self._ending if executor.kill()]:
            executor.close()
            self._ending.remove(executor)

    def close(self) -> None:
        """End all workers and wait for their ends. Idempotent."""
        self._factory = None  # it may hold the model's file open
        self._drop_replacement(WorkerLost("the engine was closed"))
        loading = self._loading.executor if self._loading else None
        for executor in (self._serving, loading, self._fenced, *self._ending):
            if executor is not None:
                executor.close()
        self._fenced = None
        self._ending.clear()

    def _replace(self, new: _Replacement[WorkT, ResultT, LimitsT]) -> Ready[LimitsT]:
        self.stop(keep=False)
        self._factory, self._replacement = new.factory, None
        ready = self._take_over(new.workers)
        new.done(None)
        return ready

    def _take_over(self, loading: _Loading[WorkT, ResultT, LimitsT]) -> Ready[LimitsT]:
        self._serving, self._loading = loading.executor, None
        self._num_out = 0
        return Ready(loading.limits, loading.executor.row_s)

    def _drop_replacement(self, error: ShoalError) -> None:
        new, self._replacement = self._replacement, None
        if new is not None:
            self._unwatch(new.workers.executor)
            self._ending.append(new.workers.executor)
            self.reap()
            new.done(error)

    def _watch(self, executor: Executor[WorkT, ResultT]) -> None:
        for fd in executor.filenos():
            self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, executor: Executor[WorkT, ResultT]) -> None:
        for fd in executor.filenos():
            self._epoll.unregister(fd)
