"""A machine on which workers can be started, and how that is done on the machine itself."""

from __future__ import annotations

import select
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import msgspec

from shoal.cluster.child_process import worker_environment
from shoal.comm.tls_identity import Credentials
from shoal.comm.tls_link import Address
from shoal.errors import WorkerLost

_START_TIMEOUT_S = 60.0
"""For Python and its imports, on a slow disk."""
_END_TIMEOUT_S = 5.0
"""For the kernel to end a killed process and free its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedWorker:
    """A process that listens for its head."""

    pid: int
    """on its machine"""
    address: Address


class WorkerHost(Protocol):
    """One machine, as the head reaches it."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def start(self, credentials: Credentials) -> StartedWorker:
        """Start a worker with these credentials; blocks, from any thread. Raises WorkerLost."""
        ...

    def end(self, worker: StartedWorker) -> None:
        """Make it end, without waiting. Never raises: a machine that is gone has ended it."""
        ...

    def has_ended(self, worker: StartedWorker) -> bool:
        """Whether that is known to be done, or its machine to be gone; never waits."""
        ...


class LocalHost:
    """This machine. Implements `WorkerHost`; an agent on another one does its work with it."""

    def __init__(self, address: str) -> None:
        """`address`: on which workers listen, and by which they are reached."""
        self._address = address
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._parent = ThreadPoolExecutor(1, thread_name_prefix="shoal-host")
        """the one thread with which all of its workers die"""

    @property
    def name(self) -> str:
        """See `WorkerHost.name`."""
        return self._address

    def start(self, credentials: Credentials) -> StartedWorker:
        """See `WorkerHost.start`."""
        process = self._parent.submit(self._spawn).result()
        try:
            port = _hand_credentials_over(process, credentials)
        except (OSError, ValueError) as error:
            process.kill()
            process.wait(_END_TIMEOUT_S)
            raise WorkerLost(f"no worker could be started on {self._address}: {error}") from error
        self._processes[process.pid] = process
        return StartedWorker(pid=process.pid, address=(self._address, port))

    def end(self, worker: StartedWorker) -> None:
        """See `WorkerHost.end`."""
        process = self._processes.get(worker.pid)
        if process is not None and process.poll() is None:
            process.kill()

    def has_ended(self, worker: StartedWorker) -> bool:
        """See `WorkerHost.has_ended`."""
        process = self._processes.get(worker.pid)
        if process is not None and process.poll() is None:
            return False
        self._processes.pop(worker.pid, None)
        return True

    def close(self) -> None:
        """End all of its workers, and wait for it. Idempotent."""
        for process in self._processes.values():
            process.kill()
            process.wait(_END_TIMEOUT_S)
        self._processes.clear()
        self._parent.shutdown()

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "shoal.worker.remote_main", self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
            start_new_session=True,
        )


def _hand_credentials_over(process: subprocess.Popen[bytes], credentials: Credentials) -> int:
    """The port at which the worker then listens. Raises OSError, ValueError where it says none."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(msgspec.msgpack.encode(credentials))
        process.stdin.close()
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        if not poll.poll(_START_TIMEOUT_S * 1e3):
            raise TimeoutError(f"it said nothing within {_START_TIMEOUT_S:.0f} s")
        return int(process.stdout.readline())
