"""`--replan` for whole experts: hot experts move to shards that are fast for their load, if that pays."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shoal.arrays import F64
from shoal.core.plan.language import Block, ReplicaPlan, ShardPlan, StagePlan, held_bytes, stage_blocks
from shoal.core.speed.replan import LOOK_S, SMALLEST_GAIN, ReplanWatch
from shoal.core.speed.slow_workers import SLOWED_FACTOR
from shoal.errors import ModelChanged, ShoalError
from shoal.launch.running.expert_heat import (
    RunningLanguagePlan,
    expert_loads,
    heat_of,
    loads_of_stage,
    own_experts,
    stage_counts,
)
from shoal.measure.free_memory import free_memory_bytes
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.split.hot_experts import place_experts, row_share, slowest_shares
from shoal.protocol.language_messages import ExpertLoad
from shoal.protocol.stage_config import LayerExperts, ShardPart

_logger = logging.getLogger("shoal.launch")

_LEAST_ROWS = 64
"""The least mean number of rows per expert of a layer; fewer do not predict the next ones. An expert's share is then
known to about an eighth of itself."""
_CONSIDER_S = 30.0
"""Seconds between two searches for a better placement of one replica, each of which may take a tenth of a second."""
_COPY_SHARE = 0.5
"""The share of the memory left beside old and new workers that copies may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _StageCosts:
    """The cost of a row for the shards of a stage, in bytes that are read for it, and their speeds."""

    heat: tuple[F64, ...]
    """[layer][expert]: shares of rows."""
    other_bytes: tuple[float, ...]
    """Bytes of each shard besides its experts, in all layers."""
    expert_bytes: float
    """Bytes of all experts that compute a row in one layer."""
    speeds: tuple[float, ...]
    """The speed of each shard in bytes per second."""

    def seconds(self, slowest: Sequence[float]) -> float:
        """Seconds of a row. `slowest`: the result of `slowest_shares`."""
        other_s = max(num_bytes / speed for num_bytes, speed in zip(self.other_bytes, self.speeds, strict=True))
        return other_s + self.expert_bytes * sum(slowest)

    @property
    def least_s(self) -> float:
        """Seconds of a row if every layer's rows could be divided arbitrarily."""
        return self.seconds([1.0 / sum(self.speeds) if heat.size else 0.0 for heat in self.heat])


class ExpertReplanner:
    """Moves hot experts between shards. Only the engine's thread may use it."""

    def __init__(
        self,
        running: RunningLanguagePlan,
        model: ModelOnDisk,
        clock: Callable[[], float],
    ) -> None:
        """`model`: the model of the running plan."""
        self._running, self._model, self._clock = running, model, clock
        self._watched: defaultdict[int, ReplanWatch] = defaultdict(ReplanWatch)
        self._next_s = clock() + LOOK_S
        self._consider_s: defaultdict[int, float] = defaultdict(float)
        """When to search again, for each replica."""
        self._bases: dict[int, tuple[ReplicaPlan, ReplicaPlan]] = {}
        """For each changed replica: (its present plan, its plan before anything was copied)."""

    def look(self) -> None:
        """Look at the reports of workers; to be called often, acts every few seconds."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        stats = self._running.stats()
        for index, replica in enumerate(self._running.plan.replicas):
            costs = None if self._running.is_changing(index) else self._costs(index, replica)
            is_known = self._watched[index].look(
                () if costs is None else (SLOWED_FACTOR,), stats.replicas[index].num_running, now_s
            )
            if costs is not None and is_known and now_s >= self._consider_s[index]:
                self._consider(index, replica, costs, now_s)

    def _costs(self, index: int, replica: ReplicaPlan) -> list[_StageCosts] | None:
        """The costs of each stage; None if experts are not divided whole, or too little is known."""
        if not all(shard.part.experts for shard in replica.shards):
            return None
        loads = expert_loads(self._running, index)
        costs = [self._stage_costs(replica, stage, loads) for stage in range(len(replica.stages))]
        known = [one for one in costs if one is not None]
        return known if len(known) == len(costs) else None

    def _stage_costs(self, replica: ReplicaPlan, index: int, loads: Mapping[int, ExpertLoad]) -> _StageCosts | None:
        stage = replica.stages[index]
        told = [load for load in loads_of_stage(replica, index, loads) if load is not None and _tells_enough(load)]
        counts = stage_counts(stage, told)
        if counts is None or len(told) < len(stage.shards):
            return None
        heat = [heat_of(rows) if rows.size else np.empty(0) for rows in counts]
        experts = self._model.config.experts
        assert experts is not None
        whole = self._own_blocks(stage, self._model.whole)
        sizes = [block.expert_bytes / experts.num_experts for block in whole if block.expert_bytes]
        expert_bytes = experts.num_chosen * sum(sizes) / max(1, len(sizes))
        own = own_experts(stage)
        other_bytes = [
            float(sum(one.weight_bytes - one.expert_bytes for one in blocks if one.flops_per_token))
            for blocks in (self._own_blocks(stage, shard.part) for shard in stage.shards)
        ]
        speeds = [
            load.num_rows
            * (other + expert_bytes * sum(row_share(rows, held[at]) for at, rows in enumerate(heat)))
            / load.busy_s
            for load, other, held in zip(told, other_bytes, own, strict=True)
        ]
        return _StageCosts(
            heat=tuple(heat), other_bytes=tuple(other_bytes), expert_bytes=expert_bytes, speeds=tuple(speeds)
        )

    def _consider(self, index: int, replica: ReplicaPlan, costs: Sequence[_StageCosts], now_s: float) -> None:
        present_s = [
            one.seconds(slowest_shares(one.heat, own_experts(stage), one.speeds))
            for one, stage in zip(costs, replica.stages, strict=True)
        ]
        if max(one.least_s for one in costs) > (1.0 - SMALLEST_GAIN) * max(present_s) or not self._fits_beside():
            return
        self._consider_s[index] = now_s + _CONSIDER_S
        now, base = self._bases.get(index, (replica, replica))
        base = base if now == replica else replica
        if _has_copies(base):
            return  # copies that the user made on purpose
        num_shards = len(replica.shards)
        placed = [
            place_experts(one.heat, own_experts(stage), one.speeds, self._room(stage, one, num_shards))
            for one, stage in zip(costs, base.stages, strict=True)
        ]
        moved_s = [one.seconds(placement.slowest) for one, placement in zip(costs, placed, strict=True)]
        move = self._watched[index].weigh(present_s, moved_s, now_s)
        if not move.pays:
            return
        stages = tuple(
            self._with_experts(stage, placement.experts) for stage, placement in zip(base.stages, placed, strict=True)
        )
        num_copies = sum(placement.num_copies for placement in placed)
        self._move(index, base, replace(base, stages=stages), num_copies, move.gain)

    def _move(self, index: int, base: ReplicaPlan, moved: ReplicaPlan, num_copies: int, gain: float) -> None:
        def done(error: ShoalError | None) -> None:
            self._watched[index].start_over()
            if error is None:
                self._bases[index] = (moved, base)
            else:
                _logger.info(f"replica {index} keeps its experts: {error}")
            if isinstance(error, ModelChanged):
                self._next_s = math.inf  # further attempts would fail in the same way

        copies = f" and copying {num_copies}" if num_copies else ""
        _logger.info(
            f"replica {index}: moving hot experts between shards{copies}; steps should take {gain:.0%} less time"
        )
        self._running.change(index, moved, done)

    def _with_experts(self, stage: StagePlan, experts: Sequence[Sequence[LayerExperts]]) -> StagePlan:
        """The stage with the same workers and other experts. `experts`: [shard][layer of the stage]."""
        before = ((),) * stage.first_layer
        after = ((),) * (self._model.config.num_layers - stage.last_layer)

        def moved(shard: ShardPlan, own: Sequence[LayerExperts]) -> ShardPlan:
            part = replace(shard.part, experts=(*before, *own, *after))
            return replace(shard, part=part, weight_bytes=held_bytes(self._own_blocks(stage, part)))

        shards = tuple(moved(shard, own) for shard, own in zip(stage.shards, experts, strict=True))
        return replace(stage, shards=shards)

    def _room(self, stage: StagePlan, costs: _StageCosts, num_shards: int) -> list[int]:
        """The number of further experts for which each shard has memory beside the old workers; 0 on other machines,
        whose memory is not known here."""
        experts = self._model.config.experts
        assert experts is not None
        free_bytes = _COPY_SHARE * (free_memory_bytes() - held_bytes(self._whole_blocks(stage))) / num_shards
        size = costs.expert_bytes / experts.num_chosen
        return [int(max(0.0, free_bytes) // size) if shard.machine is None else 0 for shard in stage.shards]

    def _fits_beside(self) -> bool:
        """Whether new workers fit beside the old ones, which keep their memory until the new ones have loaded."""
        stage = self._running.plan.replicas[0].stages[0]
        return held_bytes(self._whole_blocks(stage)) < free_memory_bytes()

    def _whole_blocks(self, stage: StagePlan) -> Sequence[Block]:
        return self._model.blocks(stage.precision, exact_activations=self._running.plan.exact_activations)

    def _own_blocks(self, stage: StagePlan, part: ShardPart) -> Sequence[Block]:
        """The blocks of a shard of the stage."""
        exact = self._running.plan.exact_activations
        blocks = self._model.blocks(stage.precision, part, exact_activations=exact)
        return stage_blocks(blocks, stage.first_layer, stage.last_layer)


def _tells_enough(load: ExpertLoad) -> bool:
    """Whether a worker has computed enough rows; it may have replaced a lost one just now."""
    return load.busy_s > 0.0 and all(sum(rows) >= _LEAST_ROWS * len(rows) for rows in load.expert_rows)


def _has_copies(replica: ReplicaPlan) -> bool:
    spans = (span for shard in replica.shards for layer in shard.part.experts for span in layer)
    return any(span.num_turns > 1 for span in spans)
