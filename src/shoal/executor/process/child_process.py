"""A worker's process: start it, report why it ended, and make sure that it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shoal.errors import (
    ConfigError,
    WorkerCrashed,
    WorkerLost,
)

_EXIT_S = 0.1
"""Longest wait for a process to end after its links closed, to report its exit status. Short, as the head waits."""
_OWN_SIGNALS = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP}
)
"""Signals that a process's own faults cause. Nobody sends them to end it."""
_KERNEL_COUNTS = Path("/proc/vmstat")
_SECRETS = frozenset({"SHOAL_API_KEY"})
_SINGLE_THREADED_BLAS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""NumPy's BLAS would start a spinning thread pool in every worker, and workers do not compute with NumPy."""


def worker_environment() -> dict[str, str]:
    """The environment variables of a worker: those of this process without secrets for clients of the server."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return kept | _SINGLE_THREADED_BLAS


def module_command(module: str, *arguments: str, python: str | None = None) -> list[str]:
    """The command that runs one of Shoal's modules with this Python, or with another that has Shoal installed.

    `python -m` alone would put the current folder in front of the module search path, so that a downloaded model's
    folder could bring its own `numpy.py`; `-P` (Python 3.11) keeps it out.
    """
    return [python or sys.executable, "-P", "-m", module, *arguments]


def no_such_python(python: str | None, error: OSError, where: str = "") -> Exception:
    """The exception for a failed start: ConfigError if a Python was named, otherwise the error itself."""
    return error if python is None else ConfigError(f"--worker-python {python}{where}: {error.strerror}")


class Child(Protocol):
    """The process behind a worker, on this machine or another."""

    @property
    def name(self) -> str:
        """The process's name in messages."""
        ...

    @property
    def pid(self) -> int:
        """Process id; 0 while the process is being started."""
        ...

    @property
    def was_killed(self) -> bool:
        """Whether the process is known to have been ended by a signal."""
        ...

    @property
    def is_reaped(self) -> bool:
        """Whether the process is known to have ended."""
        ...

    def lost(self, error: Exception) -> WorkerLost:
        """The error that says why the process is gone, as far as known; `error` is how this was noticed."""
        ...

    def kill(self) -> bool:
        """Kill the process without waiting. Returns whether it has ended; call again until it has."""
        ...

    def end(self, deadline_s: float) -> None:
        """Let the process end by itself until `deadline_s` (time.monotonic), then kill it. Idempotent."""
        ...


class Process(Protocol):
    """A process that was started here: the part of `subprocess.Popen` that is used."""

    pid: int
    returncode: int | None
    """Exit status, or the negative number of the signal that ended it; None: not known to have ended."""

    def poll(self) -> int | None:
        """Update `returncode` and return it."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return `returncode`. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        ...

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        ...


def start_module(
    module: str, arguments: Sequence[str], fds: Sequence[int], python: str | None = None
) -> subprocess.Popen[bytes]:
    """Run one of Shoal's modules as a process that dies with the calling thread.

    Args:
        module: the module; it must call `die_with_parent`.
        arguments: the module's command-line arguments.
        fds: descriptors that it inherits; the caller still closes its own.
        python: path of the Python that runs it; None: this one.

    Raises:
        ConfigError: there is no such Python.
    """
    try:
        return subprocess.Popen(
            module_command(module, *arguments, python=python),
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            env=worker_environment(),
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise no_such_python(python, error) from error


class ChildProcess:
    """Implements `Child` for a process that was started here."""

    def __init__(self, name: str, process: Process) -> None:
        """`name` is used in messages; `process` must just have been started."""
        self.name = name
        self._process = process
        self._num_ended_for_memory = _num_ended_for_memory()

    @property
    def pid(self) -> int:
        """See `Child.pid`."""
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """See `Child.was_killed`."""
        return (self._process.poll() or 0) < 0

    @property
    def is_reaped(self) -> bool:
        """See `Child.is_reaped`."""
        return self._process.returncode is not None

    def lost(self, error: Exception) -> WorkerLost:
        """See `Child.lost`. Asks the operating system for the exit status and for kills because of memory."""
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
        """See `Child.kill`. A process that has ended is reaped."""
        if self._process.poll() is None:
            self._process.kill()
        return self._process.poll() is not None

    def end(self, deadline_s: float) -> None:
        """See `Child.end`. The process is reaped in any case."""
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _num_ended_for_memory() -> int:
    """Number of processes that Linux has killed for lack of memory since boot, in any container; 0 if not counted."""
    try:
        counts = dict(line.split() for line in _KERNEL_COUNTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))
