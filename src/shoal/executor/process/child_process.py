"""A worker as a process: start it, say why it is gone, end it for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
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
from shoal.protocol.messages import StageFailed

_EXIT_GRACE_S = 1.0
_EXIT_S = 0.1
"""Longest wait between the closing of a process's links and its end, to say how it ended: the head serves others."""
_REPORTED_ERRORS: dict[str, type[ShoalError]] = {
    error.__name__: error for error in (CapacityError, ConfigError, ModelChanged, ModelLoadError)
}
_PEERS_ERRORS = frozenset(error.__name__ for error in (WorkerLost, RemoteProtocolError))
"""What a worker says that lost another one. What else it ends with is of what it was computing."""
_OWN_SIGNALS = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP}
)
"""That a process brings on itself; whoever wants it to end sends others."""
_KERNEL_COUNTS = Path("/proc/vmstat")
_SECRETS = frozenset({"SHOAL_API_KEY"})
_SINGLE_THREADED_BLAS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""NumPy's BLAS would start a spinning pool of its own in every worker; ONNX Runtime computes, NumPy only copies."""

ReceivedT = TypeVar("ReceivedT")


def worker_environment() -> dict[str, str]:
    """The environment variables of a worker: this process's, without what only concerns clients of the server."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return kept | _SINGLE_THREADED_BLAS


def module_command(module: str, *arguments: str, python: str | None = None) -> list[str]:
    """The command that runs one of Shoal's modules in this Python, or in another that has Shoal.

    `python -m` alone would put the current folder in front of the module search path, so that a downloaded model's
    folder could bring its own `numpy.py`; `-P` (Python 3.11) keeps it out.
    """
    return [python or sys.executable, "-P", "-m", module, *arguments]


class Child(Protocol):
    """The process behind a worker, on this machine or another."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    @property
    def pid(self) -> int:
        """Process id; 0 while it is being started."""
        ...

    @property
    def was_killed(self) -> bool:
        """Whether it is known that a signal has ended it."""
        ...

    @property
    def is_reaped(self) -> bool:
        """Whether it is known to have ended."""
        ...

    def lost(self, error: Exception) -> WorkerLost:
        """Why it is gone, as far as is known; `error` is how that was noticed."""
        ...

    def kill(self) -> bool:
        """Make it end, without waiting. Whether it has ended; call again until it has."""
        ...

    def end(self, deadline_s: float) -> None:
        """Let it end by itself until deadline_s (time.monotonic), then make it end. Idempotent."""
        ...


class ChildProcess:
    """Implements `Child`. It dies with this process, strictly with the thread that made it, whatever happens to it."""

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], fds: Sequence[int], python: str | None = None
    ) -> None:
        """Run a module with these arguments, handing it `fds`, which stay the caller's to close.

        Args:
            name: for messages.
            module: what to run.
            arguments: of the module.
            fds: descriptors that it inherits.
            python: path of the Python that runs it; None: this one.

        Raises:
            ConfigError: there is no such Python.
        """
        self.name = name
        self._num_ended_for_memory = _num_ended_for_memory()
        try:
            self._process = subprocess.Popen(
                module_command(module, *arguments, python=python),
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                env=worker_environment(),
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            if python is None:
                raise
            raise ConfigError(f"--worker-python {python}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """Whether a signal has ended it."""
        return (self._process.poll() or 0) < 0

    @property
    def is_reaped(self) -> bool:
        """Whether it is known to have ended."""
        return self._process.returncode is not None

    def lost(self, error: Exception) -> WorkerLost:
        """Why it is gone, as far as the operating system knows; `error` is how that was noticed."""
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return WorkerLost(f"{self.name} (pid {self.pid}): {error}")
        who = f"{self.name} (pid {self.pid})"
        if code >= 0:
            return WorkerLost(f"{who} exited with status {code}")
        if -code == signal.SIGKILL and _num_ended_for_memory() > self._num_ended_for_memory:
            return WorkerCrashed(f"{who} killed by signal {-code}: memory ran out")
        return (WorkerCrashed if -code in _OWN_SIGNALS else WorkerLost)(f"{who} killed by signal {-code}")

    def kill(self) -> bool:
        """Make it end, without waiting. Whether it has ended and is reaped; call again until it is."""
        if self._process.poll() is None:
            self._process.kill()
        return self._process.poll() is not None

    def end(self, deadline_s: float) -> None:
        """Let it end by itself until deadline_s (time.monotonic), then make it end; reaped in any case. Idempotent."""
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


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


def _num_ended_for_memory() -> int:
    """Processes that Linux has ended for want of memory since it started, in any container; 0 where it does not say."""
    try:
        counts = dict(line.split() for line in _KERNEL_COUNTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))


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
