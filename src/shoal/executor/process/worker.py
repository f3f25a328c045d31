"""A worker as the head sees it: a child with a control link; whose fault it is that several cannot go on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from shoal.errors import (
    CapacityError,
    ConfigError,
    MachineGone,
    ModelChanged,
    ModelLoadError,
    RemoteProtocolError,
    ShoalError,
    WorkerCrashed,
    WorkerLost,
)
from shoal.executor.process.child_process import Child
from shoal.protocol.worker_messages import StageFailed

_EXIT_GRACE_S = 1.0
_REPORTED_ERRORS: dict[str, type[ShoalError]] = {
    error.__name__: error for error in (CapacityError, ConfigError, ModelChanged, ModelLoadError)
}
_PEERS_ERRORS = frozenset(error.__name__ for error in (WorkerLost, RemoteProtocolError))
"""What a worker says that lost another one. What else it ends with is of what it was computing."""

ReceivedT = TypeVar("ReceivedT")


class ControlLink(Protocol):
    """What every kind of control link has."""

    def fileno(self) -> int:
        """Readable when something has come."""
        ...

    def close(self) -> None:
        """Free it. Idempotent."""
        ...


class Worker(ABC, Generic[ReceivedT]):
    """A child with a control link. Subclasses know the form of what goes over it."""

    def __init__(self, child: Child, control: ControlLink) -> None:
        """Owns both."""
        self._child = child
        self._control = control

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self._child.name

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def was_killed(self) -> bool:
        """See ChildProcess.was_killed."""
        return self._child.was_killed

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        return self._control.fileno()

    def receive(self, timeout_s: float) -> ReceivedT | None:
        """What the worker says next, None after timeout_s.

        Raises:
            WorkerLost: it is gone, or says that it cannot go on.
            ModelLoadError, ConfigError, CapacityError: what it says its stage's loading failed with.
        """
        try:
            received = self._next(timeout_s)
        except WorkerLost as error:
            raise self._child.lost(error) from error
        except RemoteProtocolError as error:
            raise WorkerLost(f"{self.name} (pid {self.pid}) cannot be understood: {error}") from error
        if received is None:
            return None
        failure = self._failure_in(received)
        if failure is not None:
            unknown = WorkerLost if failure.error in _PEERS_ERRORS else WorkerCrashed
            raise _REPORTED_ERRORS.get(failure.error, unknown)(f"{self.name}: {failure.message}")
        return received

    def ask_to_end(self) -> None:
        """Send Shutdown, if it still listens. `close` must follow."""
        if not self._child.is_reaped:
            with suppress(WorkerLost):
                self._say_shutdown()

    def kill(self) -> bool:
        """See ChildProcess.kill."""
        return self._child.kill()

    def close(self, deadline_s: float) -> None:
        """Let it end by itself until deadline_s (time.monotonic), then make it end; reaped in any case. Idempotent."""
        self._child.end(deadline_s)
        self._control.close()

    @abstractmethod
    def _next(self, timeout_s: float) -> ReceivedT | None:
        """The link's own receive. Raises WorkerLost, RemoteProtocolError."""

    @abstractmethod
    def _failure_in(self, received: ReceivedT) -> StageFailed | None:
        """The worker's last words, if these are they."""

    @abstractmethod
    def _say_shutdown(self) -> None:
        """Send Shutdown without waiting. Raises WorkerLost."""

    def _attempt(self, send: Callable[[], None]) -> None:
        """Send something. Raises WorkerLost, or the error that the worker ended with, if it said why."""
        try:
            send()
        except WorkerLost as error:
            raise self.failure() or self._child.lost(error) from error

    def failure(self) -> ShoalError | None:
        """Why it is gone, in its own words if it said why; None: it is not. Whatever else it has said is dropped."""
        try:
            while self.receive(0.0) is not None:
                pass
        except ShoalError as error:
            return error
        return None


def first_cause(workers: Mapping[int, Worker[Any]], index: int, error: ShoalError) -> tuple[int, ShoalError]:
    """Whose fault it is that a worker cannot go on, and why.

    Those who wait for a worker that is gone say that they lost it: what it says itself counts, or what it died of, then
    who was killed.

    Args:
        workers: of one replica, by their places.
        index: of the one that failed.
        error: what it failed with.
    """
    causes = {index: error}
    for other, worker in workers.items():
        if other != index and (cause := worker.failure()) is not None:
            causes[other] = cause
    failed_worker = min(causes, key=lambda one: (_is_vague(causes[one]), not workers[one].was_killed))
    return failed_worker, causes[failed_worker]


def _is_vague(cause: ShoalError) -> bool:
    return isinstance(cause, WorkerLost) and not isinstance(cause, WorkerCrashed | MachineGone)


def kill_all(workers: Collection[Worker[Any]]) -> bool:
    """Make all workers end, without waiting; whether they have. Call it again until they have."""
    return sum(worker.kill() for worker in workers) == len(workers)


def close_all(workers: Collection[Worker[Any]]) -> None:
    """Ask all workers to end, then make them. They keep nothing, so one that is busy is not waited for long."""
    for worker in workers:
        worker.ask_to_end()
    deadline_s = time.monotonic() + _EXIT_GRACE_S
    for worker in workers:
        worker.close(deadline_s)
