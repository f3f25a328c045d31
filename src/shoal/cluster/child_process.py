"""A worker as a child process: start it, say why it is gone, end it for certain."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from shoal.errors import CapacityError, ConfigError, ModelLoadError, ShoalError, WorkerLost
from shoal.protocol.messages import StageFailed

_EXIT_GRACE_S = 1.0
_REPORTED_ERRORS: dict[str, type[ShoalError]] = {
    error.__name__: error for error in (CapacityError, ConfigError, ModelLoadError)
}
_SINGLE_THREADED_BLAS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""NumPy's BLAS would start a spinning pool of its own in every worker; ONNX Runtime computes, NumPy only copies."""


class ChildProcess:
    """It dies with this process (strictly: with the thread that made it), whatever happens to it."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], fds: Sequence[int]) -> None:
        """Run `python -m module arguments`, handing it `fds`, which stay the caller's to close."""
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            env=os.environ | _SINGLE_THREADED_BLAS,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_reaped(self) -> bool:
        """Whether it is known to have ended."""
        return self._process.returncode is not None

    def lost(self, error: Exception) -> WorkerLost:
        """Why it is gone, as far as the operating system knows; `error` is how that was noticed."""
        try:
            code = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            return WorkerLost(f"{self.name} (pid {self.pid}): {error}")
        how = f"killed by signal {-code}" if code < 0 else f"exited with status {code}"
        return WorkerLost(f"{self.name} (pid {self.pid}) {how}")

    def reported(self, failure: StageFailed) -> ShoalError:
        """The error that the worker says it ended with."""
        return _REPORTED_ERRORS.get(failure.error, WorkerLost)(f"{self.name}: {failure.message}")

    def end(self, deadline_s: float) -> None:
        """Let it end by itself until deadline_s (time.monotonic), then make it end; reaped in any case. Idempotent."""
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Worker(Protocol):
    """A child that can be asked to end."""

    def ask_to_end(self) -> None:
        """Send Shutdown, if it still listens. `close` must follow."""
        ...

    def close(self, deadline_s: float) -> None:
        """Make it end by deadline_s (time.monotonic)."""
        ...


def close_all(workers: Sequence[Worker]) -> None:
    """Ask all workers to end, then make them. They keep nothing, so one that is busy is not waited for long."""
    for worker in workers:
        worker.ask_to_end()
    deadline_s = time.monotonic() + _EXIT_GRACE_S
    for worker in workers:
        worker.close(deadline_s)
