"""A worker as the head sees it: a child process with a control link. Also finds which of several workers failed
first."""

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
"""Errors with which a worker reports that it lost another worker. All others come from its own computation."""

ReceivedT = TypeVar("ReceivedT")


class ControlLink(Protocol):
    """The methods of every kind of control link."""

    def fileno(self) -> int:
        """A descriptor that is readable when something has arrived."""
        ...

    def close(self) -> None:
        """Close the link. Idempotent."""
        ...


class Worker(ABC, Generic[ReceivedT]):
    """A child process with a control link. Subclasses define the format of its messages."""

    def __init__(self, child: Child, control: ControlLink) -> None:
        """Owns the child and the link."""
        self._child = child
        self._control = control

    @property
    def name(self) -> str:
        """The worker's name in messages."""
        return self._child.name

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def was_killed(self) -> bool:
        """See `Child.was_killed`."""
        return self._child.was_killed

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something."""
        return self._control.fileno()

    def receive(self, timeout_s: float) -> ReceivedT | None:
        """Return the worker's next message, or None after `timeout_s`.

        Raises:
            WorkerLost: it is gone, or reports that it cannot continue. ModelLoadError, ConfigError, CapacityError: it
            reports that its stage could not be loaded.
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
        """Send Shutdown if the worker still lives. `close` must follow."""
        if not self._child.is_reaped:
            with suppress(WorkerLost):
                self._say_shutdown()

    def kill(self) -> bool:
        """See `Child.kill`."""
        return self._child.kill()

    def close(self, deadline_s: float) -> None:
        """End the process, see `Child.end`, and close the link. Idempotent."""
        self._child.end(deadline_s)
        self._control.close()

    @abstractmethod
    def _next(self, timeout_s: float) -> ReceivedT | None:
        """Receive from the link. Raises WorkerLost, RemoteProtocolError."""

    @abstractmethod
    def _failure_in(self, received: ReceivedT) -> StageFailed | None:
        """The failure that a message reports; None: it reports none."""

    @abstractmethod
    def _say_shutdown(self) -> None:
        """Send Shutdown without waiting. Raises WorkerLost."""

    def _attempt(self, send: Callable[[], None]) -> None:
        """Call `send`. Raises WorkerLost, or the error that the worker reported before it ended."""
        try:
            send()
        except WorkerLost as error:
            raise self.failure() or self._child.lost(error) from error

    def failure(self) -> ShoalError | None:
        """Why the worker is gone, as it reported itself if it did; None: it lives. Discards its other messages."""
        try:
            while self.receive(0.0) is not None:
                pass
        except ShoalError as error:
            return error
        return None


def first_cause(workers: Mapping[int, Worker[Any]], index: int, error: ShoalError) -> tuple[int, ShoalError]:
    """The worker that failed first, by place, and its error.

    Workers that wait for a lost one report only that they lost it. Preferred are therefore a worker's own report and
    the cause of its death, then workers that were killed.

    Args:
        workers: the workers of one replica, by place.
        index: the place of the worker whose failure was noticed.
        error: its error.
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
    """Kill all workers without waiting. Returns whether all have ended; call again until they have."""
    return sum(worker.kill() for worker in workers) == len(workers)


def close_all(workers: Collection[Worker[Any]]) -> None:
    """Ask all workers to end, then kill those that have not. They hold no data to save, so the wait is short."""
    for worker in workers:
        worker.ask_to_end()
    deadline_s = time.monotonic() + _EXIT_GRACE_S
    for worker in workers:
        worker.close(deadline_s)
