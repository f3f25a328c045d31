"""The workers that a replica has from one start to their end: what a shell's executor is in reality."""

from __future__ import annotations

from random import Random

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.protocol.messages import Step, StepResult
from shoal.sim.faults import Network
from shoal.sim.simulated_replica import SimulatedReplica, StepCost


class SimulatedWorkers:
    """They compute until they die or hang, over links that may lose, repeat or delay what they say."""

    def __init__(self, config: SchedulerConfig, cost: StepCost, network: Network, rng: Random, now_s: float) -> None:
        self.config = config
        self.is_stopped = False
        """by the shell: nothing may be sent to them any more"""
        self.is_silent = False
        """dead or hung"""
        self._replica = SimulatedReplica(
            num_blocks=config.num_blocks, block_size=config.block_size, num_stages=config.num_micro_batches, cost=cost
        )
        self._replica.restart(now_s)
        self._network = network
        self._rng = rng
        self._last_arrival_s = now_s
        self.row_s = cost.seconds(1) * config.num_micro_batches

    def slow_down(self, factor: float) -> None:
        """From now on."""
        self._replica.slow_down(factor)

    def run(self, step: Step, now_s: float) -> list[tuple[float, StepResult]]:
        """What will arrive of the answer to a step, and when."""
        assert not self.is_stopped, "a step was sent to workers that were stopped"
        if self.is_silent:
            return []
        result, done_s = self._replica.run(step, now_s)
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
