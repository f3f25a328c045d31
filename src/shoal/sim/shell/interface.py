"""What the virtual shell asks of a simulation: its work, and who decides on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic

from shoal.core.recovery.events import ReplicaJoined, ReplicaLost, ReplicaReady, Tick, WorkersProgressed
from shoal.core.recovery.recovery import RecoveryStats
from shoal.sim.simulated_workers import LimitsT, ResultT, SimulatedWorkers, WorkT


class VirtualWork(ABC, Generic[WorkT, ResultT, LimitsT]):
    """The work of a simulation, and its decisions, as the shell sees them."""

    starts_without_any = True
    """whether a replica of one worker is started in its place elsewhere when that one's machine is gone"""

    @abstractmethod
    def make_workers(
        self, replica: int, now_s: float, *, num_stages: int | None = None, without: int | None = None
    ) -> SimulatedWorkers[WorkT, ResultT, LimitsT]:
        """Workers of a replica, of a new one where there is none, in so many stages; None: as planned."""

    @abstractmethod
    def tell(
        self,
        event: WorkersProgressed | ReplicaReady[LimitsT] | ReplicaJoined[LimitsT] | ReplicaLost | Tick,
        now_s: float,
    ) -> None:
        """Let who decides handle an event, and carry out what it wants."""

    @abstractmethod
    def num_workers(self, replica: int) -> int:
        """That a replica is planned with."""

    @abstractmethod
    def recovery_stats(self) -> RecoveryStats:
        """How the replicas' workers are."""

    @abstractmethod
    def take_answer(self, replica: int, result: ResultT, now_s: float) -> None:
        """Workers have answered something."""

    @abstractmethod
    def happen(self, happening: object, now_s: float) -> None:
        """Something of the subclass's own that was `put`."""

    @abstractmethod
    def wake_s(self) -> float | None:
        """When who decides wants to be woken."""

    @abstractmethod
    def is_over(self) -> bool:
        """Whether no replica has workers or will have some."""

    @abstractmethod
    def note_stopped(self, replica: int, *, on_purpose: bool) -> None:
        """A replica's workers were stopped, because they are lost or because others take their place."""

    @abstractmethod
    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""

    def settle(self, now_s: float) -> None:
        """Called before something happens that may concern any replica: what is put off is to be done."""
