"""`--replan`: a pipeline whose workers have changed speed is given other layers, where the move pays for itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from shoal.core.plan.language import Block, held_bytes
from shoal.core.speed.replan import weigh_move
from shoal.core.speed.slow_workers import SLOWED_FACTOR
from shoal.errors import ModelChanged, ShoalError
from shoal.launch.running.running_plan import RunningPlan
from shoal.measure.free_memory import free_memory_bytes
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import parse_precision
from shoal.planner.split.relayer import Relayering, relayer, with_layers

_EVERY_S = 2.0
"""Between two looks. A slowdown must have lasted for longer than that anyway before a move can pay."""
_STANDSTILL_S = 2.0
"""That requests wait while what they have computed is computed again; the new workers load beside the old ones. A
judgment: some hundred tokens of context for each of some requests."""
_FORGET = 0.9
"""Weight of the past in the mean number of requests, at every look: about 20 s count."""


class _Watched:
    """What is remembered of a replica."""

    def __init__(self) -> None:
        self.slow_since_s: float | None = None
        self.mean_requests = 0.0


class Replanner:
    """Looks at the engine's figures now and then. Belongs to the engine's thread."""

    def __init__(
        self,
        running: RunningPlan,
        model: ModelOnDisk,
        clock: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        """`model`: what the running plan runs."""
        self._running, self._model, self._clock, self._report = running, model, clock, report
        self._watched: defaultdict[int, _Watched] = defaultdict(_Watched)
        self._next_s = clock() + _EVERY_S

    def look(self) -> None:
        """To be called often; does something every few seconds."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        stats = self._running.stats()
        for index, (slowdowns, stage_s) in enumerate(zip(stats.slowdowns, stats.stage_s, strict=True)):
            watched, num_requests = self._watched[index], stats.replicas[index].num_running
            watched.mean_requests = _FORGET * watched.mean_requests + (1 - _FORGET) * num_requests
            if not self._running.is_changing(index):
                self._consider(index, slowdowns, stage_s, num_requests, now_s)

    def _consider(
        self, index: int, slowdowns: Sequence[float], stage_s: Sequence[float], num_requests: int, now_s: float
    ) -> None:
        replica, watched = self._running.plan.replicas[index], self._watched[index]
        is_pipeline = len(replica.stages) > 1 and len(replica.shards) == len(replica.stages)
        if not is_pipeline or len(stage_s) != len(replica.stages) or max(slowdowns) < SLOWED_FACTOR:
            watched.slow_since_s = None
            return
        if watched.slow_since_s is None:
            watched.slow_since_s = now_s
        layers = [stage.num_layers for stage in replica.stages]
        best = relayer(self._whole_blocks(), layers, stage_s)
        move = weigh_move(
            stage_s,
            best.stage_s,
            standstill_s=_STANDSTILL_S,
            lasted_s=now_s - watched.slow_since_s,
            num_requests=num_requests,
            mean_requests=watched.mean_requests,
        )
        if move.pays and self._fits_beside():
            self._move(index, best, move.gain)

    def _move(self, index: int, best: Relayering, gain: float) -> None:
        plan, watched = self._running.plan, self._watched[index]
        replica = plan.replicas[index]
        moved = with_layers(replica, best.layers, self._whole_blocks(), block_size=plan.block_size)
        before = ":".join(str(stage.num_layers) for stage in replica.stages)
        after = ":".join(map(str, best.layers))

        def done(error: ShoalError | None) -> None:
            watched.slow_since_s = None
            if error is not None:
                self._report(f"replica {index} keeps its layers: {error}")
            if isinstance(error, ModelChanged):
                self._next_s = math.inf  # others that load would fail alike

        self._report(f"replica {index}: moving layers from {before} to {after}, {gain:.0%} less time a step expected")
        self._running.change(index, moved, done)

    def _fits_beside(self) -> bool:
        """The old workers keep their memory until the new ones have loaded."""
        return held_bytes(self._whole_blocks()) < free_memory_bytes()

    def _whole_blocks(self) -> Sequence[Block]:
        plan = self._running.plan
        return self._model.blocks(parse_precision(plan.precision), exact_activations=plan.exact_activations)
