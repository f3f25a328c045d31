"""What a drill does to a machine: its workers are killed or stopped, or its cable is pulled for a while."""

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
"""Longest time for which a drill pulls a cable. A judgment: much longer than recovery takes."""
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One act of a drill. Raises ConfigError where it makes no sense."""

    how: StrikeKind
    """kill: the workers are gone; stop: they hang; cable: nothing passes between their machine and any other"""
    pid: int | None = None
    """process id of the one worker that it is done to; None: to the machine"""
    for_s: float = 5.0
    """seconds until the cable is put back, up to `MAX_CABLE_S`"""

    def __post_init__(self) -> None:
        if self.how == "cable" and self.pid is not None:
            raise ConfigError("a cable is a machine's, not a worker's")
        if not 0.0 < self.for_s <= MAX_CABLE_S:
            raise ConfigError(f"a cable can be pulled for up to {MAX_CABLE_S:g} s, not {self.for_s:g}")


class Cable:
    """A machine's network cable, as a drill pulls it: nothing that is sent arrives, and no connection is told of it.

    Workers are held still for so long, so they neither read nor send; their connections stay, as they do where packets
    vanish. Whoever reaches the machine by other ways asks here whether it may. Thread-safe.
    """

    def __init__(self) -> None:
        self._is_in = threading.Event()
        self._is_in.set()
        self._lock = threading.Lock()
        self._held: tuple[int, ...] = ()
        """workers that stand still"""
        self._then: list[Callable[[], None]] = []
        """what arrives when the cable is put back"""
        self._timer: threading.Timer | None = None

    def pull(self, pids: Sequence[int], for_s: float) -> None:
        """Pull it for so many seconds; `pids`: of the machine's workers. Raises ConfigError: it is pulled already."""
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
        """Raises MachineGone while it is pulled."""
        if not self._is_in.is_set():
            raise MachineGone("its cable is pulled, for a drill")

    def wait(self, timeout_s: float) -> bool:
        """Whether the cable is in place, after waiting for that at most so long."""
        return self._is_in.wait(timeout_s)

    def deliver(self, call: Callable[[], None]) -> None:
        """Call it now, or when the cable is put back."""
        with self._lock:
            if not self._is_in.is_set():
                self._then.append(call)
            else:
                call()

    def put_back(self) -> None:
        """Put it back now; what was sent to the machine meanwhile arrives. Idempotent."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            then, self._then, held, self._held = self._then, [], self._held, ()
            for call in then:
                call()
            self._is_in.set()
            send_signal(held, signal.SIGCONT)


def send_signal(pids: Sequence[int], number: signal.Signals) -> None:
    """To children of this process that it has not waited for, so the ids are theirs; some may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
