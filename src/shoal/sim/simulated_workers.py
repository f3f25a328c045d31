"""The workers that a replica has from one start to their end: what a shell's executor is in reality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import Generic, TypeVar

from shoal.sim.faults import Network

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")
LimitsT = TypeVar("LimitsT")


class SimulatedWorkers(ABC, Generic[WorkT, ResultT, LimitsT]):
    """They compute until they die or hang, over links that may lose, repeat or delay what they say."""

    def __init__(self, limits: LimitsT, row_s: float, network: Network, rng: Random, now_s: float) -> None:
        """`limits`: what they may be asked. `row_s`: seconds that they take for a single row."""
        self.limits = limits
        self.row_s = row_s
        self.without: int | None = None
        """the worker that is done without"""
        self.is_stopped = False
        """by the shell: nothing may be sent to them any more"""
        self.is_silent = False
        """dead or hung"""
        self._network = network
        self._rng = rng
        self._last_arrival_s = now_s

    @abstractmethod
    def slow_down(self, factor: float) -> None:
        """Everything takes so many times as long from now on."""

    @abstractmethod
    def compute(self, work: WorkT, now_s: float) -> tuple[ResultT, float]:
        """The answer to work that is sent now, and when it is sent back."""

    def run(self, work: WorkT, now_s: float) -> list[tuple[float, ResultT]]:
        """What will arrive of the answer to a piece of work, and when."""
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
        """Whether something that they sent is heard now."""
        return not self.is_stopped or self._rng.random() < self._network.late_probability
