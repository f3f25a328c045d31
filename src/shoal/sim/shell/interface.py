"""The interface between the virtual shell and a simulation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic

from shoal.core.recovery.events import ReplicaJoined, ReplicaLost, ReplicaReady, Tick, WorkersProgressed
from shoal.core.recovery.recovery import RecoveryStats
from shoal.sim.simulated_workers import LimitsT, ResultT, SimulatedWorkers, WorkT


class VirtualWork(ABC, Generic[WorkT, ResultT, LimitsT]):
    """The work and the decisions of a simulation, as the shell needs them."""

    starts_without_any = True
    """Whether a replica of a single worker is started elsewhere if that worker's machine is gone."""

    @abstractmethod
    def make_workers(
        self, replica: int, now_s: float, *, num_stages: int | None = None, without: int | None = None
    ) -> SimulatedWorkers[WorkT, ResultT, LimitsT]:
        """Make workers of a replica, possibly a new one, with `num_stages` stages; None: as planned."""

    @abstractmethod
    def tell(
        self,
        event: WorkersProgressed | ReplicaReady[LimitsT] | ReplicaJoined[LimitsT] | ReplicaLost | Tick,
        now_s: float,
    ) -> None:
        """Pass an event to the scheduler or fleet, and carry out its effects."""

    @abstractmethod
    def num_workers(self, replica: int) -> int:
        """The number of workers with which a replica is planned."""

    @abstractmethod
    def recovery_stats(self) -> RecoveryStats:
        """The recovery of the replicas."""

    @abstractmethod
    def take_answer(self, replica: int, result: ResultT, now_s: float) -> None:
        """Take an answer of workers."""

    @abstractmethod
    def happen(self, happening: object, now_s: float) -> None:
        """Handle a happening of the subclass's own that was `put`."""

    @abstractmethod
    def wake_s(self) -> float | None:
        """The next time at which the scheduler or fleet needs a `Tick`; None: never."""

    @abstractmethod
    def is_over(self) -> bool:
        """Whether all replicas are given up."""

    @abstractmethod
    def note_stopped(self, replica: int, *, on_purpose: bool) -> None:
        """Note that a replica's workers were stopped, because they are lost or are being replaced."""

    @abstractmethod
    def check(self) -> None:
        """Check the invariants. Raises AssertionError if one is violated."""

    def settle(self, now_s: float) -> None:
        """Do all postponed work; called before something happens that may concern any replica."""
