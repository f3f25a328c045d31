"""Candidates: plans under consideration, with their predicted speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shoal.planner.choice.costs.sharing import share_fractions
from shoal.planner.choice.costs.stage_times import StageCosts
from shoal.planner.choice.goal import Goal
from shoal.planner.choice.groups import Group
from shoal.planner.choice.kinds import Kind, kind_of_split
from shoal.planner.predict.placement import PlacedReplica, PlacedShard, PredictedStage
from shoal.planner.predict.predict import Prediction, predict
from shoal.planner.predict.workload import Workload
from shoal.planner.search.pipeline import Pipeline
from shoal.planner.search.shares.best import GroupShares
from shoal.planner.speeds.speeds import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenStage:
    """A stage of a candidate: its layers and the workers that hold them."""

    group: Group
    first_layer: int
    last_layer: int
    """The first layer after the stage."""
    shares: GroupShares | None
    """Shares of a tensor group; None: a single worker."""
    fractions: tuple[tuple[float, float, float], ...]
    """Each member's part of the KV heads, the columns (or whole experts) and the vocabulary."""
    memory_bytes: tuple[int, ...]
    """Bytes of each member: weights and the KV of the streams in the workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A complete plan for one fleet, with its prediction."""

    fleet: Fleet
    replicas: tuple[tuple[ChosenStage, ...], ...]
    prediction: Prediction
    """The prediction under the workload."""
    lone_request_s: float
    """Seconds of a request that is alone."""
    loaded_s: float
    """Seconds of a request under the workload."""
    searched_tokens_per_s: float
    """The search's own figure for the plan, to which the search's bound applies."""

    @property
    def kind(self) -> Kind:
        """The kind of split."""
        return kind_of(self.replicas)

    @property
    def num_workers(self) -> int:
        return sum(len(stage.group.members) for replica in self.replicas for stage in replica)

    def score(self, goal: Goal) -> float:
        """The plan's score by the goal; higher is better."""
        return goal.score(self.prediction.output_tokens_per_s, self.lone_request_s)


def kind_of(replicas: Sequence[Sequence[ChosenStage]]) -> Kind:
    """The kind of a split."""
    return kind_of_split(
        num_replicas=len(replicas),
        is_cut=any(len(replica) > 1 for replica in replicas),
        is_sharded=any(not stage.group.is_single for replica in replicas for stage in replica),
    )


def make_candidate(costs: StageCosts, pipelines: Sequence[Pipeline], workload: Workload) -> Candidate:
    """Make a candidate from the pipelines that a search found, with its prediction under the workload."""
    replicas = tuple(chosen_stages(costs, pipeline) for pipeline in pipelines)
    found = predict_candidate(costs.fleet, replicas, workload, hidden_bytes=costs.model.hidden_bytes)
    searched = workload.output_tokens * sum(one.streams_per_s for one in pipelines)
    return replace(found, searched_tokens_per_s=searched)


def predict_candidate(
    fleet: Fleet, replicas: tuple[tuple[ChosenStage, ...], ...], workload: Workload, *, hidden_bytes: float
) -> Candidate:
    """Make a candidate from any replicas, with its prediction under the workload."""
    placed = [_place(replica) for replica in replicas]
    alone = predict(placed, fleet, replace(workload, streams=1), hidden_bytes=hidden_bytes)
    prediction = predict(placed, fleet, workload, hidden_bytes=hidden_bytes)
    return Candidate(
        fleet=fleet,
        replicas=replicas,
        prediction=prediction,
        lone_request_s=_request_s(alone, workload),
        loaded_s=_request_s(prediction, workload),
        searched_tokens_per_s=prediction.output_tokens_per_s,
    )


def _request_s(prediction: Prediction, workload: Workload) -> float:
    return prediction.ttft_s + (workload.output_tokens - 1) * prediction.tpot_s


def chosen_stages(costs: StageCosts, pipeline: Pipeline) -> tuple[ChosenStage, ...]:
    """The stages of one replica, with the shares of each member."""
    stages: list[ChosenStage] = []
    for stage in pipeline.stages:
        group = costs.groups[stage.group]
        first, last = costs.layers(stage.first, stage.last)
        shares = None if group.is_single else costs.sharing.shares(group, first, last, pipeline.rows)
        stages.append(
            ChosenStage(
                group=group,
                first_layer=first,
                last_layer=last,
                shares=shares,
                fractions=((1.0, 1.0, 1.0),) if shares is None else tuple(share_fractions(shares)),
                memory_bytes=costs.sharing.stage_bytes(group, first, last, pipeline.rows),
            )
        )
    return tuple(stages)


def _place(replica: Sequence[ChosenStage]) -> PlacedReplica:
    return PlacedReplica(
        stages=tuple(
            PredictedStage(
                num_layers=stage.last_layer - stage.first_layer,
                precision=stage.group.precision,
                deals_experts=stage.group.deals_experts,
                shards=tuple(
                    PlacedShard(
                        worker_class=index, attention=heads, mlp=columns, vocabulary=rows, memory_bytes=num_bytes
                    )
                    for index, (heads, columns, rows), num_bytes in zip(
                        stage.group.members, stage.fractions, stage.memory_bytes, strict=True
                    )
                ),
            )
            for stage in replica
        )
    )
