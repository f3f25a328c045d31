"""One worker as a child process: start it, load its stage, end it for certain."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from shoal.comm.socket_link import SocketLink
from shoal.errors import CapacityError, ConfigError, ModelLoadError, RemoteProtocolError, ShoalError, WorkerLost
from shoal.protocol.codec import decode, encode
from shoal.protocol.messages import LoadStage, Message, Shutdown, StageFailed

_EXIT_GRACE_S = 1.0
_SEND_TIMEOUT_S = 10.0
_REPORTED_ERRORS: dict[str, type[ShoalError]] = {
    error.__name__: error for error in (CapacityError, ConfigError, ModelLoadError)
}
_SINGLE_THREADED_BLAS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""NumPy's BLAS would start a spinning pool of its own in every worker; ONNX Runtime computes, NumPy only copies."""


class WorkerProcess:
    """A child that runs `shoal.worker`. It dies with this process, whatever happens to it."""

    def __init__(self, name: str, upstream_fd: int | None, downstream_fd: int | None) -> None:
        """`upstream_fd`, `downstream_fd`: rings to the neighbouring stages; they stay the caller's to close."""
        self.name = name
        ours, theirs = socket.socketpair()
        fds = [fd for fd in (upstream_fd, downstream_fd) if fd is not None]
        command = [sys.executable, "-m", "shoal.worker", "--control", str(theirs.fileno())]
        command += ["--upstream", str(upstream_fd)] if upstream_fd is not None else []
        command += ["--downstream", str(downstream_fd)] if downstream_fd is not None else []
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno(), *fds],
                stdin=subprocess.DEVNULL,
                env=os.environ | _SINGLE_THREADED_BLAS,
                start_new_session=True,
            )
        self._control = SocketLink(ours)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def load(self, message: LoadStage) -> None:
        """Tell the worker what to load; its answer comes through `receive`."""
        self.send(encode(message))

    def send(self, frame: bytes) -> None:
        """One encoded message. Raises WorkerLost."""
        try:
            self._control.send([frame], timeout_s=_SEND_TIMEOUT_S)
        except WorkerLost as error:
            raise self._failure() or self._lost(error) from error

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, None after timeout_s.

        Raises:
            WorkerLost: it is gone, or says that it cannot go on.
            ModelLoadError, ConfigError, CapacityError: what it says its stage's loading failed with.
        """
        try:
            frame = self._control.receive(timeout_s=timeout_s)
        except WorkerLost as error:
            raise self._lost(error) from error
        if frame is None:
            return None
        try:
            message = decode(frame)
        except RemoteProtocolError as error:
            raise WorkerLost(f"{self.name} (pid {self.pid}) cannot be understood: {error}") from error
        if isinstance(message, StageFailed):
            raise _REPORTED_ERRORS.get(message.error, WorkerLost)(f"{self.name}: {message.message}")
        return message

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        return self._control.fileno()

    def ask_to_end(self) -> None:
        """Send Shutdown, if it still listens. `close` must follow."""
        if self._process.returncode is None:
            with suppress(WorkerLost):
                self._control.send([encode(Shutdown())], timeout_s=0.0)

    def close(self, deadline_s: float) -> None:
        """Let it end by itself until deadline_s (time.monotonic), then make it end; reaped in any case. Idempotent."""
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control.close()

    def _failure(self) -> ShoalError | None:
        """What the worker said before its link closed, if it said why."""
        try:
            while self.receive(0.0) is not None:
                pass
        except ShoalError as error:
            return error
        return None

    def _lost(self, error: WorkerLost) -> WorkerLost:
        """Why it is gone, as far as the operating system knows."""
        try:
            code = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            return WorkerLost(f"{self.name} (pid {self.pid}): {error}")
        how = f"killed by signal {-code}" if code < 0 else f"exited with status {code}"
        return WorkerLost(f"{self.name} (pid {self.pid}) {how}")


def close_all(workers: Sequence[WorkerProcess]) -> None:
    """Ask all workers to end, then make them. They keep nothing, so one that is busy is not waited for long."""
    for worker in workers:
        worker.ask_to_end()
    deadline_s = time.monotonic() + _EXIT_GRACE_S
    for worker in workers:
        worker.close(deadline_s)
