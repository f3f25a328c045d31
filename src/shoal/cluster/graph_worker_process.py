"""One worker of an ONNX graph as a child process: its links, and what it says."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress

from shoal.cluster.child_process import ChildProcess
from shoal.comm.arena import ReceivingArena, SendingArena, create_arena_memory
from shoal.comm.socket_link import SocketLink
from shoal.comm.tensor_link import Received, TensorLink
from shoal.errors import RemoteProtocolError, ShoalError, WorkerLost
from shoal.protocol.graph_messages import GraphMessage
from shoal.protocol.messages import Shutdown, StageFailed
from shoal.protocol.tensor_codec import Array

_SEND_TIMEOUT_S = 10.0

LinkFds = tuple[int, int, int]
"""Socket, memory to write, memory to read; -1 for a direction without tensors."""


class GraphWorkerProcess:
    """A child that runs `shoal.worker.graph_main`."""

    def __init__(self, name: str, peers: Mapping[int, LinkFds]) -> None:
        """`peers`: its ends of the links to other stages, by stage; they stay the caller's to close."""
        self.name = name
        with ExitStack() as theirs:
            ours, their_socket = socket.socketpair()
            theirs.callback(their_socket.close)
            to_worker, from_worker = create_arena_memory(), create_arena_memory()
            for fd in (to_worker, from_worker):
                theirs.callback(os.close, fd)
            self._control = TensorLink(
                SocketLink(ours), outgoing=SendingArena(to_worker), incoming=ReceivingArena(from_worker)
            )
            control = (their_socket.fileno(), from_worker, to_worker)
            arguments = ["--control", _spell(control)]
            for stage, fds in peers.items():
                arguments += ["--peer", f"{stage}={_spell(fds)}"]
            handed = [fd for fds in (control, *peers.values()) for fd in fds if fd >= 0]
            self._child = ChildProcess(name, "shoal.worker.graph_main", arguments, handed)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def send(self, message: GraphMessage, tensors: Mapping[str, Array] | None = None) -> None:
        """One message with its tensors. Raises WorkerLost, CapacityError."""
        try:
            self._control.send(message, tensors, timeout_s=_SEND_TIMEOUT_S)
        except WorkerLost as error:
            raise self._failure() or self._child.lost(error) from error

    def receive(self, timeout_s: float) -> Received | None:
        """The next message, None after timeout_s. `release` it.

        Raises:
            WorkerLost: it is gone, or says that it cannot go on.
            ModelLoadError, ConfigError, CapacityError: what it says its stage's loading failed with.
        """
        try:
            received = self._control.receive(timeout_s=timeout_s)
        except WorkerLost as error:
            raise self._child.lost(error) from error
        except RemoteProtocolError as error:
            raise WorkerLost(f"{self.name} (pid {self.pid}) cannot be understood: {error}") from error
        if received is not None and isinstance(received.message, StageFailed):
            raise self._child.reported(received.message)
        return received

    def release(self, received: Received) -> None:
        """Its tensors are no longer read."""
        self._control.release(received)

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        return self._control.fileno()

    def ask_to_end(self) -> None:
        """Send Shutdown, if it still listens. `close` must follow."""
        if not self._child.is_reaped:
            with suppress(WorkerLost):
                self._control.send(Shutdown(), timeout_s=0.0)

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


def _spell(fds: LinkFds) -> str:
    return ":".join(map(str, fds))
