"""Workers as forks of a process that has imported what they need: docs/decisions/0047-fork-server.md."""

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
"""Modules that a worker imports to load its part of a model, by kind of work."""

_ANSWER_TIMEOUT_S = 10.0
"""A server that takes longer, because it was stopped or the machine is overloaded, is asked for no other worker."""


class ForkedProcess:
    """What `ChildProcess` uses of subprocess.Popen, for a grandchild that the fork server has made and reaps."""

    def __init__(self, pid: int, process: int, told: socket.socket) -> None:
        """
        Args:
            pid: of the process.
            process: a descriptor of it, owned.
            told: the socket that its exit status comes over, owned.
        """
        self.pid = pid
        self.returncode: int | None = None
        """Exit status, or the negative number of the signal that ended it; None: it is not known to have ended."""
        self._process = process
        self._told = told

    def poll(self) -> int | None:
        """`returncode`, after a look."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """`returncode` once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        if self.returncode is not None:
            return self.returncode
        if not _is_readable(self._told, timeout):
            raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0.0)
        status = self._told.recv(NUMBER.size)
        self._told.close()
        os.close(self._process)
        # A server that is gone has told nothing, and has taken its workers along.
        code: int = NUMBER.unpack(status)[0] if status else -signal.SIGKILL
        self.returncode = code
        return code

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)


class _ForkServer:
    """One process that forks. It ends by itself when it has had no worker for a while, and with this process."""

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
        """Have it import them now."""
        with suppress(OSError):
            self._requests.send(pack_request(modules))

    def fork(self, name: str, modules: Sequence[str], control: int, handover: int) -> ForkedProcess | None:
        """A worker; None: the server is gone or does not answer, and makes none later."""
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
        """End it, and the workers that it has. Idempotent."""
        self._requests.close()
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What a process takes over when it starts: where they have changed, another worker needs another server."""

    folder: tuple[int, int]
    """device and inode of the current one"""
    environment: Mapping[str, str]

    @classmethod
    def now(cls) -> _Surroundings:
        folder = os.stat(os.curdir)
        return cls((folder.st_dev, folder.st_ino), worker_environment())


class _ForkServers:
    """Those of this process: one, unless its environment has changed meanwhile. Thread-safe."""

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
            for _ in range(2):  # the first may have ended for want of work a moment ago
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
"""A process has one, as with `multiprocessing`: models that are loaded one after the other go on with it."""


def expect_workers(modules: Sequence[str]) -> None:
    """Workers that need these modules will be wanted soon: have them imported while this process does other things.

    With one core nothing is done, since that would only delay them.
    """
    _servers.expect(modules)


def can_fork() -> bool:
    """Whether workers of this process can be forks, as far as is known."""
    return _servers.can_fork


def will_be_forked(placement: WorkerPlacement) -> bool:
    """Whether a worker is not to be a program of its own."""
    return can_fork() and placement.machine is None and placement.python is None


def fork_worker(name: str, modules: Sequence[str], control: int, handover: int) -> ForkedProcess | None:
    """A worker that has imported modules, and is given two descriptors, which stay the caller's to close.

    Returns None where no process can be forked like this: elsewhere than on Linux, and before Linux 5.3.

    Args:
        name: what `ps` shows of it.
        modules: what it imports.
        control: its end of the socket that messages go over.
        handover: its end of the socket that descriptors of its links come over.
    """
    return _servers.fork(name, modules, control, handover)


def _is_readable(link: socket.socket, timeout_s: float | None) -> bool:
    """Whether something comes before then, or the other end closes. None: waits for as long as it takes."""
    poll = select.poll()  # `select` itself knows no descriptors beyond 1023
    poll.register(link, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
