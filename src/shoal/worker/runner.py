"""The interface between a worker's life and what it computes, with an implementation for each kind of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shoal.protocol.graph_messages import Envelope
from shoal.protocol.language_messages import Step
from shoal.protocol.worker_messages import Wire
from shoal.worker.links import Connector

Work = Step | Envelope
OnProgress = Callable[[int, int], None]
"""Called with (done, total) pieces of what is loaded."""


class Runner(Protocol):
    """Loads a part of a model and computes one kind of work."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the loaded weights."""
        ...

    @property
    def note(self) -> str | None:
        """What a user should know about how the work is computed; None: nothing."""
        ...

    def join(self, wire: Wire, connector: Connector) -> float:
        """Connect to other neighbors. Returns the seconds that a single row takes, or 0 if that is not measured.

        Raises:
            WorkerLost: a neighbor does not connect.
        """
        ...

    def check(self, work: Work) -> None:
        """Raises RemoteProtocolError if the work is of another kind, or cannot be computed at all."""
        ...

    def run(self, work: Work) -> None:
        """Compute the work and send the result to whoever waits for it.

        Raises:
            WorkerLost, RemoteProtocolError: a neighbor is gone, or has sent something malformed.
        """
        ...

    def leave(self) -> None:
        """Close the links, so that those that wait for this worker learn that it has left. Idempotent."""
        ...
