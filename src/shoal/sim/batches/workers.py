"""A graph's workers in virtual time: a pipeline of stages that compute batches in order."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from shoal.core.batching.events import BatchLimits
from shoal.sim.batches.scenario import BatchCost
from shoal.sim.faults import Network
from shoal.sim.simulated_workers import SimulatedWorkers


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedBatch:
    """A batch as it is sent to simulated workers."""

    batch_id: int
    num_elements: int
    """Elements of all rows, including padding."""
    is_refused: bool
    """Whether it contains rows that the graph cannot compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedResult:
    """The answer of simulated workers to a batch."""

    batch_id: int
    compute_s: tuple[float, ...]
    is_refused: bool


class BatchWorkers(SimulatedWorkers[SimulatedBatch, SimulatedResult, BatchLimits]):
    """The simulated workers of one replica of a graph."""

    def __init__(
        self,
        limits: BatchLimits,
        cost: BatchCost,
        network: Network,
        rng: Random,
        now_s: float,
        *,
        cold_factor: float = 1.0,
    ) -> None:
        """`cold_factor`: see `BatchScenario`; the row measured at loading is not the first one."""
        super().__init__(limits, cost.seconds(1) * limits.num_stages, network, rng, now_s)
        self._cost = cost
        self._cold_factor = cold_factor
        self._stage_free_s = [now_s] * limits.num_stages

    def slow_down(self, factor: float) -> None:
        self._cost = BatchCost(fixed_s=self._cost.fixed_s * factor, element_s=self._cost.element_s * factor)

    def compute(self, work: SimulatedBatch, now_s: float) -> tuple[SimulatedResult, float]:
        seconds, done_s = self._cost.seconds(work.num_elements) * self._cold_factor, now_s
        self._cold_factor = 1.0
        for stage, free_s in enumerate(self._stage_free_s):
            done_s = self._stage_free_s[stage] = max(done_s, free_s) + seconds
        compute_s = (seconds,) * len(self._stage_free_s)
        return SimulatedResult(batch_id=work.batch_id, compute_s=compute_s, is_refused=work.is_refused), done_s
