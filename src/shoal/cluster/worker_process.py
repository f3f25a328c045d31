"""One worker of a language model as a child process: its control link and what it says."""

from __future__ import annotations

import socket
from contextlib import suppress

from shoal.cluster.child_process import ChildProcess
from shoal.comm.socket_link import SocketLink
from shoal.errors import RemoteProtocolError, ShoalError, WorkerLost
from shoal.protocol.codec import decode, encode
from shoal.protocol.messages import LoadStage, Message, Shutdown, StageFailed

_SEND_TIMEOUT_S = 10.0


class WorkerProcess:
    """A child that runs `shoal.worker`."""

    def __init__(self, name: str, upstream_fd: int | None, downstream_fd: int | None) -> None:
        """`upstream_fd`, `downstream_fd`: rings to the neighbouring stages; they stay the caller's to close."""
        self.name = name
        ours, theirs = socket.socketpair()
        fds = {"--control": theirs.fileno(), "--upstream": upstream_fd, "--downstream": downstream_fd}
        given = {option: fd for option, fd in fds.items() if fd is not None}
        with theirs:
            arguments = [word for option, fd in given.items() for word in (option, str(fd))]
            self._child = ChildProcess(name, "shoal.worker", arguments, list(given.values()))
        self._control = SocketLink(ours)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def load(self, message: LoadStage) -> None:
        """Tell the worker what to load; its answer comes through `receive`."""
        self.send(encode(message))

    def send(self, frame: bytes) -> None:
        """One encoded message. Raises WorkerLost."""
        try:
            self._control.send([frame], timeout_s=_SEND_TIMEOUT_S)
        except WorkerLost as error:
            raise self._failure() or self._child.lost(error) from error

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, None after timeout_s.

        Raises:
            WorkerLost: it is gone, or says that it cannot go on.
            ModelLoadError, ConfigError, CapacityError: what it says its stage's loading failed with.
        """
        try:
            frame = self._control.receive(timeout_s=timeout_s)
        except WorkerLost as error:
            raise self._child.lost(error) from error
        if frame is None:
            return None
        try:
            message = decode(frame)
        except RemoteProtocolError as error:
            raise WorkerLost(f"{self.name} (pid {self.pid}) cannot be understood: {error}") from error
        if isinstance(message, StageFailed):
            raise self._child.reported(message)
        return message

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        return self._control.fileno()

    def ask_to_end(self) -> None:
        """Send Shutdown, if it still listens. `close` must follow."""
        if not self._child.is_reaped:
            with suppress(WorkerLost):
                self._control.send([encode(Shutdown())], timeout_s=0.0)

    def close(self, deadline_s: float) -> None:
        """Let it end by itself until deadline_s (time.monotonic), then make it end; reaped in any case. Idempotent."""
        self._child.end(deadline_s)
        self._control.close()

    def _failure(self) -> ShoalError | None:
        """What the worker said before its link closed, if it said why."""
        try:
            while self.receive(0.0) is not None:
                pass
        except ShoalError as error:
            return error
        return None
