"""Which machines of a cluster are there, and what is wrong with the others."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from shoal.comm.tls.tls_link import Address, format_address

DOES_NOT_ANSWER = "does not answer"
HAS_LEFT = "has left the Ray cluster"


def unreachable(where: Address) -> str:
    """What is wrong with a machine at whose raylet's address nobody takes connections."""
    return f"is in the Ray cluster, but cannot be reached at {format_address(where)}"


class Presence:
    """Record of what was last learned of each machine. Thread-safe: whoever tries to use one may find that it is gone.

    A machine that something was wrong with is back once it has answered a question, whatever it was that was wrong.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._troubles: dict[str, str | None] = {}
        """of each machine; None: it is there"""
        self._back: list[str] = []

    def note_there(self, name: str) -> None:
        """The machine has answered."""
        with self._lock:
            if self._troubles.get(name) is not None:
                self._back.append(name)
            self._troubles[name] = None

    def note_joined(self, name: str) -> None:
        """The machine is part of the cluster from now on, or once more."""
        with self._lock:
            self._troubles[name] = None
            if name not in self._back:
                self._back.append(name)

    def note_trouble(self, name: str, what: str) -> None:
        """The machine cannot be used; `what` follows its name in a sentence."""
        with self._lock:
            self._troubles[name] = what
            if name in self._back:
                self._back.remove(name)

    def take_back(self) -> list[str]:
        """Machines that have joined or are back since the last call, by name."""
        with self._lock:
            back, self._back = sorted(self._back), []
        return back

    def living(self) -> frozenset[str]:
        """Machines that are there, by name."""
        with self._lock:
            return frozenset(name for name, trouble in self._troubles.items() if trouble is None)

    def troubles(self) -> Mapping[str, str]:
        """What is wrong with each of the others."""
        with self._lock:
            return {name: trouble for name, trouble in self._troubles.items() if trouble is not None}
