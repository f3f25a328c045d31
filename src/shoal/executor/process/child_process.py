"""A worker as a process: start it, say why it is gone, end it for certain."""

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
"""Longest wait between the closing of a process's links and its end, to say how it ended: the head serves others."""
_OWN_SIGNALS = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP}
)
"""That a process brings on itself; whoever wants it to end sends others."""
_KERNEL_COUNTS = Path("/proc/vmstat")
_SECRETS = frozenset({"SHOAL_API_KEY"})
_SINGLE_THREADED_BLAS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""NumPy's BLAS would start a spinning pool of its own in every worker; ONNX Runtime computes, NumPy only copies."""


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


def no_such_python(python: str | None, error: OSError, where: str = "") -> Exception:
    """What to raise where a process cannot be started: the Python that was named is not there, or the error itself."""
    return error if python is None else ConfigError(f"--worker-python {python}{where}: {error.strerror}")


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


class Process(Protocol):
    """A process that was started here; what is used of `subprocess.Popen`."""

    pid: int
    returncode: int | None
    """Exit status, or the negative number of the signal that ended it; None: it is not known to have ended."""

    def poll(self) -> int | None:
        """`returncode`, after a look."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """`returncode` once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        ...

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        ...


def start_module(
    module: str, arguments: Sequence[str], fds: Sequence[int], python: str | None = None
) -> subprocess.Popen[bytes]:
    """Run one of Shoal's modules as a process that dies with the thread that calls this.

    Args:
        module: what to run; it calls `die_with_parent`.
        arguments: of the module.
        fds: descriptors that it inherits; they stay the caller's to close.
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
        """`name`: for messages; `process`: it has only just been started."""
        self.name = name
        self._process = process
        self._num_ended_for_memory = _num_ended_for_memory()

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


def _num_ended_for_memory() -> int:
    """Processes that Linux has ended for want of memory since it started, in any container; 0 where it does not say."""
    try:
        counts = dict(line.split() for line in _KERNEL_COUNTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))
