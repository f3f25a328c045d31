"""A machine on which workers can be started, and how that is done on the machine itself."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import msgspec

from shoal.cluster.child_process import module_command, worker_environment
from shoal.comm.tls_identity import Credentials
from shoal.comm.tls_link import Address
from shoal.errors import WorkerLost
from shoal.protocol.messages import LoadStage

_START_TIMEOUT_S = 60.0
"""For Python and its imports, on a slow disk."""
_LOOK_S = 0.2
"""Between two looks whether a worker is still wanted."""
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

    def start(self, credentials: Credentials, is_wanted: Callable[[], bool]) -> StartedWorker:
        """Start a worker with these credentials; blocks, from any thread, but not long once it is not wanted any more.

        Raises WorkerLost.
        """
        ...

    def model_path(self, path: str) -> str:
        """Where the model that is at that path here is on the machine."""
        ...

    def provide(self, load: LoadStage, is_wanted: Callable[[], bool]) -> None:
        """See to it that the machine has what a worker loads; blocks, from any thread, as `start` does.

        Raises WorkerLost, ModelLoadError, CapacityError.
        """
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

    def start(self, credentials: Credentials, is_wanted: Callable[[], bool] = lambda: True) -> StartedWorker:
        """See `WorkerHost.start`."""
        process = self._parent.submit(self._spawn).result()
        try:
            port = _hand_credentials_over(process, credentials, is_wanted)
        except (OSError, ValueError) as error:
            process.kill()
            process.wait(_END_TIMEOUT_S)
            raise WorkerLost(f"no worker could be started on {self._address}: {error}") from error
        self._processes[process.pid] = process
        return StartedWorker(pid=process.pid, address=(self._address, port))

    def model_path(self, path: str) -> str:
        """See `WorkerHost.model_path`."""
        return path

    def provide(self, load: LoadStage, is_wanted: Callable[[], bool]) -> None:
        """See `WorkerHost.provide`. What is here is here."""

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
            module_command("shoal.worker.remote_main", self._address),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
            start_new_session=True,
        )


def _hand_credentials_over(
    process: subprocess.Popen[bytes], credentials: Credentials, is_wanted: Callable[[], bool]
) -> int:
    """The port at which the worker then listens. Raises OSError, ValueError where it says none."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(msgspec.msgpack.encode(credentials))
        process.stdin.close()
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not poll.poll(_LOOK_S * 1e3):
            if time.monotonic() >= deadline_s or not is_wanted():
                raise TimeoutError(f"it said nothing within {_START_TIMEOUT_S:.0f} s, or was not wanted any more")
        return int(process.stdout.readline())
