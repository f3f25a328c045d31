"""One worker of a language model as a child process: what goes over its control link."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from shoal.cluster.child_process import ChildProcess, Worker
from shoal.comm.socket_link import SocketLink
from shoal.protocol.codec import decode, encode
from shoal.protocol.messages import LoadStage, Message, Shutdown, StageFailed

_SEND_TIMEOUT_S = 10.0


class WorkerProcess(Worker[Message]):
    """A child that runs `shoal.worker`."""

    def __init__(
        self, name: str, upstream_fd: int | None, downstream_fds: Sequence[int] = (), group_fd: int | None = None
    ) -> None:
        """The descriptors stay the caller's to close.

        Args:
            name: for messages.
            upstream_fd: ring from the previous stage.
            downstream_fds: rings to shards of the next stage.
            group_fd: memory of the group of shards that this one belongs to.
        """
        ours, theirs = socket.socketpair()
        given = [("--control", theirs.fileno()), ("--upstream", upstream_fd), ("--group", group_fd)]
        given += [("--downstream", fd) for fd in downstream_fds]
        fds = [(option, fd) for option, fd in given if fd is not None]
        with theirs:
            arguments = [word for option, fd in fds for word in (option, str(fd))]
            child = ChildProcess(name, "shoal.worker", arguments, [fd for _, fd in fds])
        self._link = SocketLink(ours)
        super().__init__(child, self._link)

    def load(self, message: LoadStage) -> None:
        """Tell the worker what to load; its answer comes through `receive`."""
        self.send(encode(message))

    def send(self, frame: bytes) -> None:
        """One encoded message. Raises WorkerLost."""
        self._attempt(lambda: self._link.send([frame], timeout_s=_SEND_TIMEOUT_S))

    def _next(self, timeout_s: float) -> Message | None:
        frame = self._link.receive(timeout_s=timeout_s)
        return None if frame is None else decode(frame)

    def _failure_in(self, received: Message) -> StageFailed | None:
        return received if isinstance(received, StageFailed) else None

    def _say_shutdown(self) -> None:
        self._link.send([encode(Shutdown())], timeout_s=0.0)
