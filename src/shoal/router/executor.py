"""The seam between decisions and workers: one executor does the work of one replica, whatever the work is.

A piece of work is a step of a language model or a batch of an ONNX graph; nothing here knows which.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.protocol.language_messages import StepResult
from shoal.protocol.worker_messages import Generation

WorkT = TypeVar("WorkT")
WorkT_contra = TypeVar("WorkT_contra", contravariant=True)
ResultT = TypeVar("ResultT")
LimitsT_co = TypeVar("LimitsT_co", covariant=True)


class Executor(Protocol[WorkT_contra, ResultT]):
    """Does the work of one replica, in the order in which it was submitted.

    Implementations: in-process, child processes, workers on other machines. Nothing above `executor` knows which.
    """

    @property
    def num_stages(self) -> int:
        """How many pieces of work can usefully be computed at once."""
        ...

    def submit(self, work: WorkT_contra) -> None:
        """Hand over one piece of work. Returns before it is computed. Raises WorkerLost."""
        ...

    def poll(self) -> list[ResultT]:
        """Finished work, oldest first, without blocking on a peer (an in-process executor computes here).

        Raises:
            WorkerLost: a worker of this replica is gone; everything in flight is lost.
        """
        ...

    def filenos(self) -> tuple[int, ...]:
        """File descriptors that become readable when `poll` has something; empty: `poll` itself does the work."""
        ...

    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of its workers on their machines, stage by stage, rank by rank; empty: this process computes."""
        ...

    def fence(self) -> None:
        """Let go of everything in flight, at once: the workers are cut off from each other, and what they say no
        longer counts.

        Those that live keep what they have loaded, for a factory's next start; `kill` or `close` must follow.
        """
        ...

    def kill(self) -> bool:
        """Make every worker end, without waiting for it. Call it again until it says that all of them have ended."""
        ...

    def close(self) -> None:
        """Stop the workers, wait until they have ended, and free everything. Idempotent."""
        ...


class StartingExecutor(Executor[WorkT_contra, ResultT], Protocol[WorkT_contra, ResultT]):
    """One whose workers may still be loading."""

    @property
    def row_s(self) -> float:
        """Seconds that the loaded workers take for the smallest piece of work, a single row; 0: not known."""
        ...

    @property
    def failed_worker(self) -> int | None:
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
        """Take in what loading workers say, without blocking; whether all of them are ready for work.

        To be called when a descriptor of `filenos` is readable.

        Raises:
            WorkerLost: a worker is gone.
            ModelLoadError, ConfigError, CapacityError: what a worker failed with.
        """
        ...


class ReplicaFactory(Protocol[WorkT, ResultT, LimitsT_co]):
    """Starts the workers of one replica."""

    def start(
        self, generation: Generation, without: int | None, previous: Executor[WorkT, ResultT] | None
    ) -> tuple[LimitsT_co, StartingExecutor[WorkT, ResultT]]:
        """Start them. Returns at once, while they load.

        Args:
            generation: of the workers.
            without: a worker, stage by stage and rank by rank, that could not be restarted: do without it if possible.
            previous: fenced; workers of it may be used again and are no longer its own then.

        Returns:
            What the scheduler may ask of these workers, and the workers.

        Raises:
            ShoalError: it cannot even be begun.
        """
        ...


StepExecutor = Executor[StepWork, StepResult]
"""Of a language model."""
StepReplicaFactory = ReplicaFactory[StepWork, StepResult, SchedulerConfig]
"""Of a language model."""
