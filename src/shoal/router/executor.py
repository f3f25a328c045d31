"""The seam between decisions and workers: one executor runs the steps of one replica."""

from __future__ import annotations

from typing import Protocol

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.protocol.messages import Generation, Step, StepResult


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

    def fence(self) -> None:
        """Let go of every step, at once: the workers are cut off from each other, and what they say no longer counts.

        Those that live keep what they have loaded, for a recipe's next start; `kill` or `close` must follow.
        """
        ...

    def kill(self) -> bool:
        """Make every worker end, without waiting for it. Call it again until it says that all of them have ended."""
        ...

    def close(self) -> None:
        """Stop the workers, wait until they have ended, and free everything. Idempotent."""
        ...


class StartingExecutor(Executor, Protocol):
    """One whose workers may still be loading."""

    @property
    def row_s(self) -> float:
        """Seconds that the loaded workers took for a single row; 0: not known."""
        ...

    @property
    def culprit(self) -> int | None:
        """The worker, stage by stage and rank by rank, that the latest error was about; None: not known."""
        ...

    @property
    def silent(self) -> int | None:
        """The only worker, so counted, that is not ready; None: several are not, or none."""
        ...

    @property
    def waiting_for(self) -> str:
        """The workers that are not ready, for messages."""
        ...

    def poll_loading(self) -> bool:
        """Take in what loading workers say, without blocking; whether all of them are ready for steps.

        To be called when a descriptor of `filenos` is readable.

        Raises:
            WorkerLost: a worker is gone.
            ModelLoadError, ConfigError, CapacityError: what a worker failed with.
        """
        ...


class ReplicaRecipe(Protocol):
    """How the workers of one replica are started."""

    def start(
        self, generation: Generation, without: int | None, previous: Executor | None
    ) -> tuple[SchedulerConfig, StartingExecutor]:
        """Start them. Returns at once, while they load.

        Args:
            generation: of the workers.
            without: a worker, stage by stage and rank by rank, that could not be restarted: do without it if possible.
            previous: fenced; workers of it may be used again and are no longer its own then.

        Raises:
            ShoalError: it cannot even be begun.
        """
        ...
