"""The machines of a cluster that are there, and what is wrong with the others."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from shoal.comm.tls.tls_link import Address, format_address

DOES_NOT_ANSWER = "does not answer"
HAS_LEFT = "has left the Ray cluster"


def unreachable(where: Address) -> str:
    """What is wrong with a machine whose raylet accepts no connections at its address."""
    return f"is in the Ray cluster, but cannot be reached at {format_address(where)}"


class Presence:
    """The last known state of each machine. Thread-safe, as any thread may notice that a machine is gone.

    A machine with trouble of any kind counts as back once it answers a question.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._troubles: dict[str, str | None] = {}
        """The trouble of each machine, by name; None: it is there."""
        self._back: list[str] = []

    def note_there(self, name: str) -> None:
        """Note that the machine has answered."""
        with self._lock:
            if self._troubles.get(name) is not None:
                self._back.append(name)
            self._troubles[name] = None

    def note_joined(self, name: str) -> None:
        """Note that the machine has joined the cluster, or joined it again."""
        with self._lock:
            self._troubles[name] = None
            if name not in self._back:
                self._back.append(name)

    def note_trouble(self, name: str, what: str) -> None:
        """Note that the machine cannot be used; `what` follows its name in a sentence."""
        with self._lock:
            self._troubles[name] = what
            if name in self._back:
                self._back.remove(name)

    def take_back(self) -> list[str]:
        """Names of machines that have joined or are back since the last call."""
        with self._lock:
            back, self._back = sorted(self._back), []
        return back

    def living(self) -> frozenset[str]:
        """Names of the machines that are there."""
        with self._lock:
            return frozenset(name for name, trouble in self._troubles.items() if trouble is None)

    def troubles(self) -> Mapping[str, str]:
        """What is wrong with each of the other machines, by name."""
        with self._lock:
            return {name: trouble for name, trouble in self._troubles.items() if trouble is not None}
