"""The faults that a drill injects into a machine: killed or stopped workers, or a pulled network cable."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

from shoal.errors import ConfigError, MachineGone

StrikeKind = Literal["kill", "stop", "cable"]
STRIKE_KINDS: tuple[StrikeKind, ...] = get_args(StrikeKind)
MAX_CABLE_S = 300.0
"""Longest time for which a drill pulls a cable, chosen to be much longer than recovery takes."""
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One fault of a drill. Raises ConfigError if it is invalid."""

    how: StrikeKind
    """kill: workers are killed; stop: they hang; cable: nothing passes between their machine and any other."""
    pid: int | None = None
    """Process id of the affected worker; None: all workers of the machine."""
    for_s: float = 5.0
    """Seconds until the cable is put back, at most `MAX_CABLE_S`."""

    def __post_init__(self) -> None:
        if self.how == "cable" and self.pid is not None:
            raise ConfigError("a cable is a machine's, not a worker's")
        if not 0.0 < self.for_s <= MAX_CABLE_S:
            raise ConfigError(f"a cable can be pulled for up to {MAX_CABLE_S:g} s, not {self.for_s:g}")


class Cable:
    """A simulated network cable: while it is pulled, nothing arrives, and no connection is closed.

    The workers are stopped meanwhile, so they neither read nor send, and their connections stay open as if packets were
    lost. Code that reaches the machine in other ways must call `check` first. Thread-safe.
    """

    def __init__(self) -> None:
        self._is_in = threading.Event()
        self._is_in.set()
        self._lock = threading.Lock()
        self._held: tuple[int, ...] = ()
        """Process ids of the stopped workers."""
        self._then: list[Callable[[], None]] = []
        """Calls that are made when the cable is put back."""
        self._timer: threading.Timer | None = None

    def pull(self, pids: Sequence[int], for_s: float) -> None:
        """Pull the cable for `for_s` seconds and stop the workers `pids`. Raises ConfigError if it is already
        pulled."""
        with self._lock:
            if not self._is_in.is_set():
                raise ConfigError("the cable of this machine is pulled already")
            self._is_in.clear()
            self._held = tuple(pids)
            send_signal(pids, signal.SIGSTOP)
            self._timer = threading.Timer(for_s, self.put_back)
            self._timer.daemon = True
            self._timer.start()

    def check(self) -> None:
        """Raises MachineGone while the cable is pulled."""
        if not self._is_in.is_set():
            raise MachineGone("its cable is pulled, for a drill")

    def wait(self, timeout_s: float) -> bool:
        """Wait for the cable for at most `timeout_s`. Returns whether it is in place."""
        return self._is_in.wait(timeout_s)

    def deliver(self, call: Callable[[], None]) -> None:
        """Make a call now, or when the cable is put back."""
        with self._lock:
            if not self._is_in.is_set():
                self._then.append(call)
            else:
                call()

    def put_back(self) -> None:
        """Put the cable back now; what was sent to the machine meanwhile arrives. Idempotent."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            then, self._then, held, self._held = self._then, [], self._held, ()
            for call in then:
                call()
            self._is_in.set()
            send_signal(held, signal.SIGCONT)


def send_signal(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to unreaped children of this process, whose ids are therefore not reused. Some may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
