"""`--replan`: a pipeline whose workers have changed speed is given other layers, where the move pays for itself."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from shoal.core.plan.language import Block, Plan, ReplicaPlan, held_bytes
from shoal.core.speed.replan import LOOK_S, ReplanWatch
from shoal.errors import ModelChanged, ShoalError
from shoal.launch.running.running_plan import RunningPlan
from shoal.measure.free_memory import free_memory_bytes
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.split.device_layers import devices_hold
from shoal.planner.split.relayer import Relayering, relayer, with_layers
from shoal.router.engine_stats import EngineStats

_logger = logging.getLogger("shoal.launch")


class Replanner:
    """Looks at the engine's figures now and then. Belongs to the engine's thread."""

    def __init__(
        self,
        running: RunningPlan[Plan, ReplicaPlan, EngineStats],
        model: ModelOnDisk,
        clock: Callable[[], float],
    ) -> None:
        """`model`: what the running plan runs."""
        self._running, self._model, self._clock = running, model, clock
        self._watched: defaultdict[int, ReplanWatch] = defaultdict(ReplanWatch)
        self._next_s = clock() + LOOK_S

    def look(self) -> None:
        """To be called often; does something every few seconds."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        stats = self._running.stats()
        for index, (slowdowns, stage_s) in enumerate(zip(stats.slowdowns, stats.stage_s, strict=True)):
            replica = self._running.plan.replicas[index]
            is_pipeline = len(replica.shards) == len(replica.stages) == len(stage_s) > 1
            is_slow = self._watched[index].look(
                slowdowns if is_pipeline else (), stats.replicas[index].num_running, now_s
            )
            if is_slow and not self._running.is_changing(index):
                self._consider(index, stage_s, now_s)

    def _consider(self, index: int, stage_s: Sequence[float], now_s: float) -> None:
        layers = [stage.num_layers for stage in self._running.plan.replicas[index].stages]
        best = relayer(self._whole_blocks(), layers, stage_s)
        move = self._watched[index].weigh(stage_s, best.stage_s, now_s)
        if move.pays and self._fits_beside() and self._fits_devices(index, best.layers):
            self._move(index, best, move.gain)

    def _move(self, index: int, best: Relayering, gain: float) -> None:
        plan, watched = self._running.plan, self._watched[index]
        replica = plan.replicas[index]
        moved = with_layers(replica, best.layers, self._whole_blocks(), block_size=plan.block_size)
        before = ":".join(str(stage.num_layers) for stage in replica.stages)
        after = ":".join(map(str, best.layers))

        def done(error: ShoalError | None) -> None:
            watched.start_over()
            if error is not None:
                _logger.info(f"replica {index} keeps its layers: {error}")
            if isinstance(error, ModelChanged):
                self._next_s = math.inf  # others that load would fail alike

        _logger.info(f"replica {index}: moving layers from {before} to {after}, {gain:.0%} less time a step expected")
        self._running.change(index, moved, done)

    def _fits_beside(self) -> bool:
        """The old workers keep their memory until the new ones have loaded."""
        return held_bytes(self._whole_blocks()) < free_memory_bytes()

    def _fits_devices(self, index: int, layers: Sequence[int]) -> bool:
        plan = self._running.plan
        blocks = self._model.blocks(plan.precision, exact_activations=True)
        return devices_hold(plan.replicas[index], layers, blocks, block_size=plan.block_size)

    def _whole_blocks(self) -> Sequence[Block]:
        plan = self._running.plan
        return self._model.blocks(plan.precision, exact_activations=plan.exact_activations)
