"""What a worker's life asks of what it computes: one kind of work each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shoal.protocol.graph_messages import Envelope
from shoal.protocol.language_messages import Step
from shoal.protocol.worker_messages import Wire
from shoal.worker.links import Connector

Work = Step | Envelope
OnProgress = Callable[[int, int], None]
"""told (done, total) pieces of what is loaded"""


class Runner(Protocol):
    """What is loaded and computed: one kind of work."""

    @property
    def weight_bytes(self) -> int:
        """Of what is loaded."""
        ...

    @property
    def note(self) -> str | None:
        """What a user should know of how it is computed; None: nothing."""
        ...

    def join(self, wire: Wire, connector: Connector) -> float:
        """Take other neighbors. Returns seconds of a single row, 0 where that is not measured.

        Raises:
            WorkerLost: one does not come.
        """
        ...

    def check(self, work: Work) -> None:
        """Raises RemoteProtocolError where it cannot be computed at all, or is of another kind."""
        ...

    def run(self, work: Work) -> None:
        """Compute, and tell whoever waits for it.

        Raises:
            WorkerLost, RemoteProtocolError: a neighbor is gone, or cannot be understood.
        """
        ...

    def leave(self) -> None:
        """Those that wait for this worker learn that it has left. Idempotent."""
        ...
