"""A worker on another machine. A thread starts it, so that the head never waits."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from msgspec import structs

from shoal.comm.links.socket_link import SocketLink
from shoal.comm.tls.tls_identity import Credentials
from shoal.comm.tls.tls_link import Address, connect_tls
from shoal.errors import MachineGone, WorkerLost
from shoal.executor.launcher import LoadMessage
from shoal.executor.process.message_worker import MessageWorker
from shoal.executor.remote.deferred_link import DeferredLink
from shoal.executor.remote.host import Admit, StartedWorker, WorkerHost
from shoal.model.adapter.files import sent
from shoal.protocol.codec import encode
from shoal.protocol.language_messages import LoadStage
from shoal.worker.remote_main import CONTROL_KEY

_CONNECT_TIMEOUT_S = 10.0
_POLL_S = 0.01
_EXIT_S = 0.2
"""Longest wait for a machine to report how a worker ended whose link closed. Short, as the head waits."""


class RemoteChild:
    """A worker process on another machine. Implements `executor.process.child_process.Child`."""

    def __init__(self, name: str, host: WorkerHost) -> None:
        self.name = name
        self._host = host
        self._started: StartedWorker | None = None
        self._is_unwanted = False
        self._was_told_to_end = False
        self._never_was = False
        self._exit_status: int | None = None

    @property
    def pid(self) -> int:
        """See `Child.pid`."""
        return self._started.pid if self._started is not None else 0

    @property
    def address(self) -> Address:
        """The address at which the worker listens. It must have been started."""
        assert self._started is not None
        return self._started.address

    @property
    def was_killed(self) -> bool:
        """See `Child.was_killed`. Known once its machine has reported it."""
        return (self._exit_status or 0) < 0

    @property
    def is_reaped(self) -> bool:
        """See `Child.is_reaped`."""
        return self._was_told_to_end

    def start(
        self,
        load: LoadMessage,
        admit: Admit,
        heads: Credentials,
        note_progress: Callable[[], None],
        python: str | None = None,
    ) -> SocketLink:
        """Bring the model to the machine, start the worker there and connect to it. Blocks. Raises ShoalError."""
        try:
            self._host.provide(load, lambda: not self._is_unwanted, note_progress)
            started = self._started = self._host.start(admit, lambda: not self._is_unwanted, python)
        except BaseException:
            self._never_was = True
            raise
        if self._is_unwanted:
            self._host.end(started)
            raise WorkerLost(f"{self.name} is not wanted any more")
        note_progress()
        return connect_tls(started.address, heads, key=CONTROL_KEY, timeout_s=_CONNECT_TIMEOUT_S)

    def lost(self, error: Exception) -> WorkerLost:
        """See `Child.lost`."""
        if isinstance(error, MachineGone):
            return MachineGone(f"{self.name}: {error}")
        process = f" (pid {self.pid})" if self.pid else ""
        how = self._how_it_ended()
        return WorkerLost(f"{self.name}{process}: {error}" if how is None else f"{self.name}{process} {how}")

    def kill(self) -> bool:
        """See `Child.kill`."""
        self._is_unwanted = True
        if self._started is None:
            return self._never_was
        if not self._was_told_to_end:
            self._was_told_to_end = True
            self._host.end(self._started)
        return self._host.has_ended(self._started)

    def end(self, deadline_s: float) -> None:
        """See `Child.end`. A worker that is still being started is killed at once."""
        if self._started is None:
            self._is_unwanted = True
        while self._started is not None and not self._host.has_ended(self._started):
            if time.monotonic() >= deadline_s:
                self.kill()
                return
            time.sleep(_POLL_S)

    def _how_it_ended(self) -> str | None:
        """The end of a worker in words; None: it has not ended, or the cause is unknown."""
        if self._started is not None and self._exit_status is None and not self._was_told_to_end:
            self._exit_status = self._host.exit_status(self._started, _EXIT_S)
        if self._exit_status is None:
            return None
        if self._exit_status >= 0:
            return f"exited with status {self._exit_status}"
        number = -self._exit_status
        return f"was killed by signal {number}" + (" (out of memory?)" if number == signal.SIGKILL else "")


def _as_there(load: LoadMessage, host: WorkerHost) -> LoadMessage:
    """The load message with the paths on the worker's machine."""
    if not isinstance(load, LoadStage):
        return structs.replace(load, model_path=host.model_path(load.model_path))
    adapters = tuple(sent(adapter, host.model_path) for adapter in load.adapters)
    return structs.replace(load, model_path=host.model_path(load.model_path), adapters=adapters)


class RemoteWorker(MessageWorker):
    """A worker on another machine. Messages can be sent at once and are delivered when it is connected."""

    def __init__(
        self,
        name: str,
        host: WorkerHost,
        load: LoadMessage,
        *,
        admit: Admit,
        heads: Credentials,
        python: str | None = None,
    ) -> None:
        """Start the worker and tell it what to load.

        Args:
            name: the worker's name in messages.
            host: the machine on which it runs.
            load: what it loads, with the model's path on this machine.
            admit: signs a key of the host, which makes it a member of the cluster.
            heads: the credentials of this process.
            python: path of the Python that runs it there; None: the one that runs Shoal there.
        """
        self._process = RemoteChild(name, host)
        self._deferred = DeferredLink(
            lambda note_progress: self._process.start(load, admit, heads, note_progress, python), f"start {name}"
        )
        super().__init__(self._process, self._deferred)
        self.send(encode(_as_there(load, host)))

    @property
    def address(self) -> Address:
        """The address at which its neighbors reach it. A message of it must have been received."""
        return self._process.address

    def kill(self) -> bool:
        """See `Worker.kill`. A worker that is still being started is ended afterwards."""
        return super().kill() and not self._deferred.is_connecting
