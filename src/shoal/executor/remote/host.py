"""Machines on which workers can be started, and the implementation that runs on the machine itself."""

from __future__ import annotations

import select
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import msgspec

from shoal.comm.links.ports import ANY_PORT, format_ports
from shoal.comm.tls.tls_identity import Credentials, MachineKey, Membership
from shoal.comm.tls.tls_link import Address
from shoal.errors import ConfigError, WorkerLost
from shoal.executor.launcher import LoadMessage
from shoal.executor.process.child_process import module_command, no_such_python, worker_environment
from shoal.executor.remote.strikes import SIGNALS, Cable, Strike, send_signal

_START_TIMEOUT_S = 60.0
"""Longest wait for Python and its imports, on a slow disk."""
_LOOK_S = 0.2
"""Seconds between two checks whether a worker is still wanted."""
_END_TIMEOUT_S = 5.0
"""Longest wait for the kernel to end a killed process and free its memory."""

Admit = Callable[[bytes], Membership]
"""The head's answer to a signing request, see `ClusterAuthority.admit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedWorker:
    """A worker process that listens for its head."""

    pid: int
    """Process id on its machine."""
    address: Address


class WorkerHost(Protocol):
    """A machine on which the head can start workers."""

    @property
    def name(self) -> str:
        """The machine's name in messages."""
        ...

    def start(self, admit: Admit, is_wanted: Callable[[], bool], python: str | None = None) -> StartedWorker:
        """Start a worker. Blocks, but only briefly once it is no longer wanted. Thread-safe.

        If a start that was given up succeeds later, the worker is ended.

        Args:
            admit: signs a key of the machine, which makes it a member of the cluster.
            is_wanted: polled; returns whether the worker is still wanted.
            python: path of the Python that runs it, on that machine; None: the one that runs Shoal there.

        Raises:
            WorkerLost, ConfigError: it could not be started, or is no longer wanted.
        """
        ...

    def model_path(self, path: str) -> str:
        """The path on the machine of the model or adapter that has this path here."""
        ...

    def provide(self, load: LoadMessage, is_wanted: Callable[[], bool], note_progress: Callable[[], None]) -> None:
        """Make sure that the machine has the files that a worker loads. Blocks as `start` does. Thread-safe.

        Args:
            load: the message that the worker will get.
            is_wanted: polled; returns whether the worker is still wanted.
            note_progress: called whenever there is progress.

        Raises:
            WorkerLost, ModelLoadError, CapacityError, ConfigError: the files cannot be brought there.
        """
        ...

    def end(self, worker: StartedWorker) -> None:
        """Kill a worker without waiting. Never raises: workers of a lost machine count as ended."""
        ...

    def has_ended(self, worker: StartedWorker) -> bool:
        """Whether the worker is known to have ended, or its machine to be gone. Never blocks."""
        ...

    def exit_status(self, worker: StartedWorker, timeout_s: float = 0.0) -> int | None:
        """The worker's exit status, negative for a signal; waits for at most `timeout_s`. None: not known."""
        ...


class LocalHost:
    """This machine. Implements `WorkerHost`; an agent on another machine uses it there."""

    def __init__(self, address: str, ports: range = ANY_PORT) -> None:
        """
        Args:
            address: the address at which workers listen and are reached.
            ports: the ports at which they may listen.
        """
        self._address, self._ports = address, ports
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: dict[int, int] = {}
        """Exit statuses by process id."""
        self._key: MachineKey | None = None
        self._key_lock = threading.Lock()
        self.cable = Cable()
        """This machine's network cable, for drills."""
        self._parent = ThreadPoolExecutor(1, thread_name_prefix="shoal-host")
        """The thread that starts all workers; they die with it."""

    @property
    def name(self) -> str:
        """See `WorkerHost.name`."""
        return self._address

    @property
    def key(self) -> MachineKey:
        """The key of all processes that are started here. Thread-safe. Raises ConfigError if `cryptography` is
        missing."""
        with self._key_lock:
            if self._key is None:
                self._key = MachineKey()
            return self._key

    def start(
        self, admit: Admit, is_wanted: Callable[[], bool] = lambda: True, python: str | None = None
    ) -> StartedWorker:
        """See `WorkerHost.start`. Raises MachineGone while its cable is pulled."""
        self.cable.check()
        credentials = self.key.credentials(admit(self.key.request()))
        process = self._parent.submit(self._spawn, python).result()
        try:
            port = _hand_credentials_over(process, credentials, is_wanted)
        except (OSError, ValueError) as error:
            process.kill()
            process.wait(_END_TIMEOUT_S)
            raise WorkerLost(f"no worker could be started on {self._address}: {error}") from error
        self._ended.pop(process.pid, None)
        self._processes[process.pid] = process
        return StartedWorker(pid=process.pid, address=(self._address, port))

    def model_path(self, path: str) -> str:
        """See `WorkerHost.model_path`."""
        return path

    def provide(
        self, load: LoadMessage, is_wanted: Callable[[], bool], note_progress: Callable[[], None] = lambda: None
    ) -> None:
        """See `WorkerHost.provide`. Does nothing: the files are here."""

    def end(self, worker: StartedWorker) -> None:
        """See `WorkerHost.end`."""
        self.cable.deliver(lambda: self._kill(worker.pid))

    def strike(self, strike: Strike) -> None:
        """Carry out a drill's strike on workers of this machine. Thread-safe.

        Raises:
            ConfigError: the worker does not run here, or the cable is already pulled.
        """
        running = [pid for pid, process in tuple(self._processes.items()) if process.poll() is None]
        if strike.pid is not None and strike.pid not in running:
            raise ConfigError(f"no worker with process id {strike.pid} runs on {self._address} now")
        if strike.how == "cable":
            self.cable.pull(running, strike.for_s)
        else:
            send_signal(running if strike.pid is None else [strike.pid], SIGNALS[strike.how])

    def has_ended(self, worker: StartedWorker) -> bool:
        """See `WorkerHost.has_ended`."""
        return self.exit_status(worker) is not None or worker.pid not in self._processes

    def exit_status(self, worker: StartedWorker, timeout_s: float = 0.0) -> int | None:
        """See `WorkerHost.exit_status`."""
        if not self.cable.wait(timeout_s):
            return None
        process = self._processes.get(worker.pid)
        if process is not None:
            try:
                self._ended[worker.pid] = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return None
            self._processes.pop(worker.pid, None)
        return self._ended.get(worker.pid)

    def close(self) -> None:
        """End all workers and wait until they have ended. Idempotent."""
        for process in self._processes.values():
            process.kill()
            process.wait(_END_TIMEOUT_S)
        self._processes.clear()
        self._parent.shutdown()

    def _kill(self, pid: int) -> None:
        process = self._processes.get(pid)
        if process is not None and process.poll() is None:
            process.kill()

    def _spawn(self, python: str | None) -> subprocess.Popen[bytes]:
        """Start the process. Raises ConfigError if there is no such Python."""
        ports = () if self._ports == ANY_PORT else ("--ports", format_ports(self._ports))
        try:
            return subprocess.Popen(
                module_command("shoal.worker.remote_main", self._address, *ports, python=python),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=worker_environment(),
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise no_such_python(python, error, f" on {self._address}") from error


def _hand_credentials_over(
    process: subprocess.Popen[bytes], credentials: Credentials, is_wanted: Callable[[], bool]
) -> int:
    """Send a worker its credentials and return the port at which it listens. Raises OSError, ValueError."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(msgspec.msgpack.encode(credentials))
        process.stdin.close()
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not poll.poll(_LOOK_S * 1e3):
            if time.monotonic() >= deadline_s:
                raise TimeoutError(f"it said nothing within {_START_TIMEOUT_S:.0f} s")
            if not is_wanted():
                raise TimeoutError("it is not wanted any more")
        said = process.stdout.readline().decode(errors="replace").strip()
    if not said.isdigit():
        raise ValueError(said or f"it ended with status {process.wait(_END_TIMEOUT_S)} before it had said anything")
    return int(said)
