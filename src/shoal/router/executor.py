"""The seam between decisions and workers: an executor does the work of one replica.

A piece of work is a step of a language model or a batch of an ONNX graph; this interface is the same for both.
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

    It may compute in this process, in child processes, or on other machines; only the folder `executor` knows which.
    """

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline: the number of pieces of work that it can compute at once."""
        ...

    def submit(self, work: WorkT_contra) -> None:
        """Send one piece of work and return before it is computed. Raises WorkerLost."""
        ...

    def poll(self) -> list[ResultT]:
        """Return finished work, oldest first, without blocking on a peer; an in-process executor computes here.

        Raises:
            WorkerLost: a worker of this replica is lost, and with it everything in flight.
        """
        ...

    def filenos(self) -> tuple[int, ...]:
        """File descriptors that become readable when `poll` has results; empty: `poll` itself does the work."""
        ...

    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of its workers on their machines, stage by stage, rank by rank; empty: this process computes."""
        ...

    def fence(self) -> None:
        """Drop everything in flight at once: the workers are cut off from each other, and their messages are ignored.

        Survivors keep what they have loaded, for the next start by a factory; `kill` or `close` must follow.
        """
        ...

    def kill(self) -> bool:
        """Make every worker end, without waiting. Returns whether all have ended; call it again until then."""
        ...

    def close(self) -> None:
        """Stop the workers, wait until they have ended, and free everything. Idempotent."""
        ...


class StartingExecutor(Executor[WorkT_contra, ResultT], Protocol[WorkT_contra, ResultT]):
    """An executor whose workers may still be loading."""

    @property
    def row_s(self) -> float:
        """Seconds that the loaded workers take for the smallest piece of work, a single row; 0: not known."""
        ...

    @property
    def failed_worker(self) -> int | None:
        """The worker that the latest error was about, counted stage by stage and rank by rank; None: not known."""
        ...

    @property
    def silent(self) -> int | None:
        """The only worker that is not ready, counted as `failed_worker`; None: several are not, or all are."""
        ...

    @property
    def waiting_for(self) -> str:
        """The workers that are not ready, for messages."""
        ...

    def poll_loading(self) -> bool:
        """Take in messages of loading workers, without blocking. Returns whether all workers are ready.

        To be called when a descriptor of `filenos` is readable.

        Raises:
            WorkerLost: a worker is lost. ModelLoadError, ConfigError, CapacityError: the error of a worker that failed.
        """
        ...


class ReplicaFactory(Protocol[WorkT, ResultT, LimitsT_co]):
    """Starts the workers of one replica."""

    def start(
        self, generation: Generation, without: int | None, previous: Executor[WorkT, ResultT] | None
    ) -> tuple[LimitsT_co, StartingExecutor[WorkT, ResultT]]:
        """Start the workers. Returns at once, while they load.

        Args:
            generation: the generation of the workers.
            without: a worker that could not be restarted, counted stage by stage and rank by rank: leave it out if
                possible. None: start all.
            previous: the fenced executor before; the new one may take workers over from it.

        Returns:
            The limits of the workers, and their executor.

        Raises:
            ShoalError: the workers could not be started.
        """
        ...


StepExecutor = Executor[StepWork, StepResult]
"""The executor of a language model."""
StepReplicaFactory = ReplicaFactory[StepWork, StepResult, SchedulerConfig]
"""The factory of a language model."""
