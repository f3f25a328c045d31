"""A worker as a child process on this machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from shoal.comm.links.posting_link import PostingLink
from shoal.comm.links.socket_link import SocketLink
from shoal.errors import WorkerLost
from shoal.executor.process.child_process import ChildProcess, Process, start_module
from shoal.executor.process.cpu_quota import held
from shoal.executor.process.fork_server import fork_worker
from shoal.executor.process.message_worker import MessageWorker
from shoal.protocol.codec import encode
from shoal.protocol.worker_messages import Wire


class WorkerProcess(MessageWorker):
    """A process that runs `shoal.worker`."""

    def __init__(self, name: str, modules: Sequence[str], python: str | None = None) -> None:
        """Start the process.

        Args:
            name: the name in messages and in the process list.
            modules: modules that it needs, so that it can be forked from a process that has imported them.
            python: path of the Python that runs it; None: this one.

        Raises:
            ConfigError: there is no such Python.
        """
        with ExitStack() as at_end, ExitStack() as on_failure:
            ours, theirs = socket.socketpair()
            on_failure.push(ours)
            at_end.push(theirs)
            our_handover, their_handover = socket.socketpair()
            on_failure.push(our_handover)
            at_end.push(their_handover)
            child = ChildProcess(name, _start(name, modules, theirs.fileno(), their_handover.fileno(), python))
            on_failure.pop_all()
        our_handover.setblocking(False)
        self._handover = our_handover
        """The socket for the descriptors of its links."""
        self._quota = ExitStack()
        """The control group that limits it."""
        super().__init__(child, PostingLink(SocketLink(ours)))

    def hold(self, cpu_quota: float, *, num_cores: int) -> None:
        """Limit the worker to a share of the time of `num_cores` cores while it lives. Raises ConfigError."""
        self._quota.enter_context(held(self.pid, cpu_quota, num_cores=num_cores))

    def wire(self, message: Wire, fds: Sequence[int]) -> None:
        """Tell the worker its neighbors, and send it its ends of the links to them. Raises WorkerLost."""

        def hand_over() -> None:
            try:
                socket.send_fds(self._handover, [b"\0"], fds)
            except OSError as error:
                raise WorkerLost(f"link closed while handing descriptors over: {error}") from error

        if fds:
            self._attempt(hand_over)
        self.send(encode(message))

    def kill(self) -> bool:
        """See `Worker.kill`."""
        has_ended = super().kill()
        if has_ended:
            self._quota.close()
        return has_ended

    def close(self, deadline_s: float) -> None:
        """See `Worker.close`."""
        super().close(deadline_s)
        self._handover.close()
        self._quota.close()


def _start(name: str, modules: Sequence[str], control: int, handover: int, python: str | None) -> Process:
    if python is None and (forked := fork_worker(name, modules, control, handover)) is not None:
        return forked
    arguments = ["--control", str(control), "--handover", str(handover)]
    return start_module("shoal.worker", arguments, [control, handover], python)
