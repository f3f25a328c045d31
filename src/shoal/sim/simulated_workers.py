"""The workers of a replica from their start to their end; in reality, an executor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import Generic, TypeVar

from shoal.sim.faults import Network

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")
LimitsT = TypeVar("LimitsT")


class SimulatedWorkers(ABC, Generic[WorkT, ResultT, LimitsT]):
    """Workers that compute until they die or hang, over links that may lose, repeat or delay answers."""

    def __init__(self, limits: LimitsT, row_s: float, network: Network, rng: Random, now_s: float) -> None:
        """`limits`: their limits. `row_s`: seconds that they take for a single row."""
        self.limits = limits
        self.row_s = row_s
        self.without: int | None = None
        """The worker that is left out; None: none is."""
        self.is_stopped = False
        """Whether the shell has stopped them, so that nothing may be sent to them any more."""
        self.is_silent = False
        """Whether they are dead or hung."""
        self._network = network
        self._rng = rng
        self._last_arrival_s = now_s

    @abstractmethod
    def slow_down(self, factor: float) -> None:
        """Multiply all times by a factor from now on."""

    @abstractmethod
    def compute(self, work: WorkT, now_s: float) -> tuple[ResultT, float]:
        """The answer to work that is sent now, and the time at which it is sent back."""

    def run(self, work: WorkT, now_s: float) -> list[tuple[float, ResultT]]:
        """The answers to work that will arrive, if any, with their times."""
        assert not self.is_stopped, "work was sent to workers that were stopped"
        if self.is_silent:
            return []
        result, done_s = self.compute(work, now_s)
        if self._rng.random() < self._network.drop_probability:
            return []
        self._last_arrival_s = max(self._last_arrival_s, done_s + self._rng.uniform(0.0, self._network.delay_s))
        arrivals = [(self._last_arrival_s, result)]
        if self._rng.random() < self._network.repeat_probability:
            arrivals.append((self._last_arrival_s + self._rng.uniform(0, 0.1), result))
        return arrivals

    def still_says(self) -> bool:
        """Whether an answer that they sent is delivered now."""
        return not self.is_stopped or self._rng.random() < self._network.late_probability
