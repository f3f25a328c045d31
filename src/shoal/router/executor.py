"""The seam between decisions and workers: one executor runs the steps of one replica."""

from __future__ import annotations

from typing import Protocol

from shoal.protocol.messages import Step, StepResult


class Executor(Protocol):
    """Runs the steps of one replica, in the order in which they were submitted.

    Implementations: in-process, local child processes, Ray. Nothing above `cluster` knows which.
    """

    @property
    def num_stages(self) -> int:
        """How many steps can usefully be in flight."""
        ...

    def submit(self, step: Step) -> None:
        """Hand over one step. Returns before it is computed. Raises WorkerLost."""
        ...

    def poll(self) -> list[StepResult]:
        """Finished steps, oldest first, without blocking on a peer (an in-process executor computes here).

        Raises:
            WorkerLost: a worker of this replica is gone; every step in flight is lost.
        """
        ...

    def filenos(self) -> tuple[int, ...]:
        """File descriptors that become readable when `poll` has something; empty: `poll` itself does the work."""
        ...

    def close(self) -> None:
        """Stop the workers and free everything. Idempotent."""
        ...
