"""Expert heat: the shares of rows of each expert as reported by workers, for users, metrics and `--replan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from shoal.arrays import F64, I64
from shoal.core.plan.language import Plan, ReplicaPlan, StagePlan
from shoal.launch.running.running_plan import RunningPlan
from shoal.planner.split.hot_experts import row_share
from shoal.protocol.language_messages import ExpertLoad
from shoal.protocol.stage_config import LayerExperts
from shoal.router.engine_stats import EngineStats

_HOTTEST = 3
"""The number of experts of a stage that are listed."""


RunningLanguagePlan = RunningPlan[Plan, ReplicaPlan, EngineStats]


@runtime_checkable
class TellsOfExperts(Protocol):
    """A factory whose workers report the load of their experts."""

    @property
    def expert_loads(self) -> Mapping[int, ExpertLoad]:
        """The latest report of each worker, by its index counted stage by stage and rank by rank."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HotExpert:
    """One of the hottest experts."""

    layer: int
    expert: int
    share: float
    """Its share of the layer's rows, 0 to 1; the shares of a layer sum to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHeat:
    """The distribution of a stage's rows over experts and shards."""

    replica: int
    stage: int
    num_rows: int
    """Rows of the layer with the most rows, each counted once for every expert that it chose."""
    shard_shares: tuple[float, ...]
    """The share of rows that each shard computes, averaged over layers; empty if experts are divided by columns."""
    hottest: tuple[HotExpert, ...]
    """The hottest experts of all layers, hottest first."""

    @property
    def largest_share(self) -> float:
        """The largest share of a layer's rows that one expert has."""
        return self.hottest[0].share


def stage_counts(stage: StagePlan, loads: Sequence[ExpertLoad]) -> list[I64] | None:
    """Rows of each layer's experts, as counted by the worker with the most rows; None if no report matches the
    stage."""
    fitting = [load.expert_rows for load in loads if len(load.expert_rows) == stage.num_layers]
    most = max(fitting, key=lambda rows: sum(map(sum, rows)), default=None)
    if most is None or len({len(layer) for layer in most if layer}) != 1:
        return None
    return [np.array(layer, np.int64) for layer in most]


def loads_of_stage(replica: ReplicaPlan, index: int, loads: Mapping[int, ExpertLoad]) -> list[ExpertLoad | None]:
    """The report of each shard of a stage, None if it has none. `loads`: reports by worker."""
    first = sum(len(stage.shards) for stage in replica.stages[:index])
    return [loads.get(first + rank) for rank in range(len(replica.stages[index].shards))]


def own_experts(stage: StagePlan) -> list[list[LayerExperts]]:
    """[shard][layer of the stage]: the whole experts that it holds."""
    return [
        [held[layer if len(held) > 1 else 0] for layer in range(stage.first_layer, stage.last_layer)]
        for held in (shard.part.experts for shard in stage.shards)
    ]


def heat_of(counts: I64) -> F64:
    """Shares of rows; equal ones while there are no rows."""
    total = counts.sum()
    return counts / total if total else np.full(len(counts), 1.0 / max(1, len(counts)))


def expert_loads(running: RunningLanguagePlan, index: int) -> dict[int, ExpertLoad]:
    """The reports of the workers of a replica that runs as planned, by worker; otherwise empty. Callable from any
    thread."""
    factory = running.as_planned(index)
    return dict(factory.expert_loads) if isinstance(factory, TellsOfExperts) else {}


def stage_heats(running: RunningLanguagePlan) -> list[StageHeat]:
    """The heat of every stage whose workers have reported it. Callable from any thread."""
    heats: list[StageHeat] = []
    for r, replica in enumerate(running.plan.replicas):
        loads = expert_loads(running, r)
        for s, stage in enumerate(replica.stages):
            told = [load for load in loads_of_stage(replica, s, loads) if load is not None]
            if (counts := stage_counts(stage, told)) is not None:
                heats.append(_summary(r, s, stage, counts))
    return heats


def heat_dicts(heats: Sequence[StageHeat]) -> list[dict[str, Any]]:
    """The heat as plain data, for `/status`."""
    return [
        {
            "replica": heat.replica,
            "stage": heat.stage,
            "rows": heat.num_rows,
            "shard_shares": list(heat.shard_shares),
            "hottest": [{"layer": hot.layer, "expert": hot.expert, "share": hot.share} for hot in heat.hottest],
        }
        for heat in heats
    ]


def _summary(replica: int, index: int, stage: StagePlan, counts: Sequence[I64]) -> StageHeat:
    layers = [layer for layer, rows in enumerate(counts) if rows.size]
    heat = {layer: heat_of(counts[layer]) for layer in layers}
    hot = [
        HotExpert(layer=stage.first_layer + layer, expert=int(shares.argmax()), share=float(shares.max()))
        for layer, shares in heat.items()
    ]
    shard_shares: tuple[float, ...] = ()
    if all(shard.part.experts for shard in stage.shards):
        own = own_experts(stage)
        shard_shares = tuple(float(np.mean([row_share(heat[layer], held[layer]) for layer in layers])) for held in own)
    return StageHeat(
        replica=replica,
        stage=index,
        num_rows=max(int(counts[layer].sum()) for layer in layers),
        shard_shares=shard_shares,
        hottest=tuple(sorted(hot, key=lambda one: -one.share)[:_HOTTEST]),
    )
