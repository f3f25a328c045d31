"""Workers as forks of a process that has imported their modules: docs/decisions/0047-fork-server.md."""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

from shoal.core.plan.placement import WorkerPlacement
from shoal.executor.process.child_process import start_module, worker_environment
from shoal.protocol.forking import NUMBER, pack_request

LANGUAGE_WORKER = ("shoal.worker.language.imported",)
GRAPH_WORKER = ("shoal.worker.graph_runner",)
"""Modules that a worker of each kind imports to load its part of a model."""

_ANSWER_TIMEOUT_S = 10.0
"""A server that takes longer to answer, as when stopped or on an overloaded machine, is not asked again."""


class ForkedProcess:
    """Implements `Process` for a grandchild that the fork server has forked and reaps."""

    def __init__(self, pid: int, process: int, told: socket.socket) -> None:
        """
        Args:
            pid: the process id.
            process: a pidfd of the process, owned.
            told: the socket over which its exit status arrives, owned.
        """
        self.pid = pid
        self.returncode: int | None = None
        """Exit status, or the negative number of the signal that ended it; None: not known to have ended."""
        self._process = process
        self._told = told

    def poll(self) -> int | None:
        """See `Process.poll`."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See `Process.wait`."""
        if self.returncode is not None:
            return self.returncode
        if not _is_readable(self._told, timeout):
            raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0.0)
        status = self._told.recv(NUMBER.size)
        self._told.close()
        os.close(self._process)
        # A server that is gone sent nothing, and its workers died with it.
        code: int = NUMBER.unpack(status)[0] if status else -signal.SIGKILL
        self.returncode = code
        return code

    def kill(self) -> None:
        """See `Process.kill`."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)


class _ForkServer:
    """A process that forks workers. It ends with this process, or when it has had no worker for a while."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.is_usable = True
        self._requests = ours
        with theirs:
            fd = theirs.fileno()
            self._process = start_module("shoal.worker.process.fork_server", ["--requests", str(fd)], [fd])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def expect(self, modules: Sequence[str]) -> None:
        """Make the server import the modules now."""
        with suppress(OSError):
            self._requests.send(pack_request(modules))

    def fork(self, name: str, modules: Sequence[str], control: int, handover: int) -> ForkedProcess | None:
        """Fork a worker. Returns None if the server is gone or does not answer; it then forks none later either."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, suppress(OSError):
                fds = [theirs.fileno(), control, handover]
                socket.send_fds(self._requests, [pack_request(modules, name)], fds)
            if _is_readable(ours, _ANSWER_TIMEOUT_S):
                answer, fds, _, _ = socket.recv_fds(ours, NUMBER.size, 1)
                if answer:
                    return ForkedProcess(NUMBER.unpack(answer)[0], fds[0], ours.dup())
        self.is_usable = False
        return None

    def close(self) -> None:
        """End the server and its workers. Idempotent."""
        self._requests.close()
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What a process inherits at its start. If it has changed, the next worker needs another server."""

    folder: tuple[int, int]
    """Device and inode of the current folder."""
    environment: Mapping[str, str]

    @classmethod
    def now(cls) -> _Surroundings:
        folder = os.stat(os.curdir)
        return cls((folder.st_dev, folder.st_ino), worker_environment())


class _ForkServers:
    """The fork servers of this process: one, unless its environment has changed. Thread-safe."""

    def __init__(self) -> None:
        self._servers: list[tuple[_Surroundings, _ForkServer]] = []
        self._lock = Lock()
        self._can_fork = sys.platform == "linux"
        atexit.register(self._close)

    def expect(self, modules: Sequence[str]) -> None:
        """See `expect_workers`."""
        if self._can_fork and len(os.sched_getaffinity(0)) > 1:
            self.current().expect(modules)

    def fork(self, name: str, modules: Sequence[str], control: int, handover: int) -> ForkedProcess | None:
        """See `fork_worker`."""
        if self._can_fork:
            for _ in range(2):  # the first may just have ended for lack of work
                if (forked := self.current().fork(name, modules, control, handover)) is not None:
                    return forked
            self._can_fork = False
        return None

    def current(self) -> _ForkServer:
        """The server that new workers come from."""
        with self._lock:
            for entry in [entry for entry in self._servers if entry[1].has_ended]:
                entry[1].close()
                self._servers.remove(entry)
            now = _Surroundings.now()
            for surroundings, server in self._servers:
                if surroundings == now and server.is_usable:
                    return server
            self._servers.append((now, _ForkServer()))
            return self._servers[-1][1]

    @property
    def can_fork(self) -> bool:
        return self._can_fork

    def _close(self) -> None:
        for _, server in self._servers:
            server.close()


_servers = _ForkServers()
"""One per process, as with `multiprocessing`; models that are loaded one after the other share it."""


def expect_workers(modules: Sequence[str]) -> None:
    """Import modules in the fork server now, as workers that need them will be started soon.

    Does nothing on one core, where this would only delay the caller.
    """
    _servers.expect(modules)


def can_fork() -> bool:
    """Whether workers of this process can be forked, as far as is known."""
    return _servers.can_fork


def will_be_forked(placement: WorkerPlacement) -> bool:
    """Whether a worker will be forked instead of started as a new program."""
    return can_fork() and placement.machine is None and placement.python is None


def fork_worker(name: str, modules: Sequence[str], control: int, handover: int) -> ForkedProcess | None:
    """Fork a worker that has imported the modules. The caller still closes its own copies of the descriptors.

    Returns None if workers cannot be forked: on systems other than Linux, and before Linux 5.3.

    Args:
        name: the name that `ps` shows.
        modules: the modules to import.
        control: the worker's end of the socket for messages.
        handover: the worker's end of the socket for the descriptors of its links.
    """
    return _servers.fork(name, modules, control, handover)


def _is_readable(link: socket.socket, timeout_s: float | None) -> bool:
    """Wait until something arrives or the other end closes. Returns False after `timeout_s`; None: no limit."""
    poll = select.poll()  # `select` accepts no descriptors above 1023
    poll.register(link, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
