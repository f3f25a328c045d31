"""The best use of workers that join while a plan runs, with as few changes of the plan as possible.

They form a replica of their own, or one running replica is split again over its own workers and the new ones. Only one
replica changes at a time, so that all others continue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from shoal.core.speed.replan import SMALLEST_GAIN
from shoal.planner.choice.candidate import Candidate, ChosenStage, chosen_stages, predict_candidate
from shoal.planner.choice.compare import Comparable
from shoal.planner.choice.costs.model_sizes import ModelSizes
from shoal.planner.choice.costs.stage_times import StageCosts
from shoal.planner.choice.goal import Goal
from shoal.planner.choice.groups import Group, make_groups
from shoal.planner.predict.workload import Workload
from shoal.planner.search.replica import best_replica
from shoal.planner.speeds.speeds import Fleet
from shoal.protocol.stage_config import Precision

Replicas = tuple[tuple[ChosenStage, ...], ...]


class StageOfWorkers(Protocol):
    """A stage of a candidate, for any kind of model."""

    @property
    def group(self) -> Group:
        """The workers that hold the stage."""
        ...


CandidateT = TypeVar("CandidateT", bound=Comparable)
ReplicaT_co = TypeVar("ReplicaT_co", covariant=True)
CandidateT_co = TypeVar("CandidateT_co", bound=Comparable, covariant=True)
StageT = TypeVar("StageT", bound=StageOfWorkers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension(Generic[CandidateT_co]):
    """A plan in which one replica is new or has changed."""

    candidate: CandidateT_co
    """The plan with all replicas, including the changed one."""
    replica: int
    """Index of the replica that is new or has changed; new ones come last."""
    gain: float
    """The relative improvement over the plan before, such as 0.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedPlan(Generic[ReplicaT_co]):
    """A plan in which one replica is new or has changed, because machines have joined."""

    replica: ReplicaT_co
    """The new or changed replica, ready to be started."""
    extension: Extension[Any]


def best_extension(
    present: tuple[tuple[StageT, ...], ...],
    *,
    idle: Sequence[int],
    open_replicas: Collection[int],
    goal: Goal,
    make: Callable[[Collection[int], int], tuple[StageT, ...] | None],
    predict: Callable[[tuple[tuple[StageT, ...], ...]], CandidateT],
) -> Extension[CandidateT] | None:
    """Find the best use of idle workers for any kind of model; None if no use pays.

    Args:
        present: the running replicas.
        idle: classes of the idle workers, each with one worker.
        open_replicas: indices of replicas that may be split again.
        goal: the goal by which plans are compared.
        make: makes the best replica from the workers of these classes, given the total number of replicas; None: none
            fits.
        predict: makes a candidate from replicas, with its prediction.
    """
    before = predict(present)
    score = before.score(goal)
    best: Extension[CandidateT] | None = None
    for at, workers, num_replicas in _changes(present, idle, open_replicas):
        if (replica := make(workers, num_replicas)) is None:
            continue
        candidate = predict((*present[:at], replica, *present[at + 1 :]))
        gain = candidate.score(goal) / score - 1.0
        if _meets(candidate, before, goal) and gain >= max(SMALLEST_GAIN, best.gain if best else 0.0):
            best = Extension(candidate=candidate, replica=at, gain=gain)
    return best


def extend(
    present: Replicas,
    fleet: Fleet,
    *,
    idle: Sequence[int],
    open_replicas: Collection[int],
    model: ModelSizes,
    workload: Workload,
    goal: Goal,
    precisions: Sequence[Precision],
) -> Extension[Candidate] | None:
    """Find the best use of idle workers for a language model; None if no use pays.

    Args:
        present: the running replicas.
        fleet: the workers of `present` and the idle ones, in classes of one worker each.
        idle: classes of the idle workers.
        open_replicas: indices of replicas that may be split again.
        model: sizes at all of `precisions`.
        workload: the load to plan for.
        goal: the goal by which plans are compared.
        precisions: the precisions that a stage may have.
    """
    costs = StageCosts(
        fleet=fleet,
        model=model,
        workload=workload,
        groups=make_groups(
            fleet.counts,
            precisions,
            max_shards=model.atoms.max_shards,
            max_expert_shards=model.atoms.max_expert_shards,
            whole_only=fleet.whole_only,
        ),
        kv_streams=workload.streams,
        is_alone=False,
    )

    def make(workers: Collection[int], num_replicas: int) -> tuple[ChosenStage, ...] | None:
        problem = replace(costs.problem(), counts=counts_of(workers, len(fleet.classes)))
        pipeline = best_replica(problem, -(-workload.streams // num_replicas))
        return None if pipeline is None else chosen_stages(costs, pipeline)

    return best_extension(
        present,
        idle=idle,
        open_replicas=open_replicas,
        goal=goal,
        make=make,
        predict=lambda replicas: predict_candidate(fleet, replicas, workload, hidden_bytes=model.hidden_bytes),
    )


def counts_of(workers: Collection[int], num_classes: int) -> tuple[int, ...]:
    """The workers of each class that may be used: 1 for these classes, 0 for all others."""
    return tuple(int(index in workers) for index in range(num_classes))


def _changes(
    present: tuple[tuple[StageT, ...], ...], idle: Sequence[int], open_replicas: Collection[int]
) -> Iterator[tuple[int, Collection[int], int]]:
    """All possible changes: the index of the changed replica, its workers, and the number of replicas afterwards. Each
    idle worker, and all of them together, are tried alone and with the workers of a replica."""
    sets = [{one} for one in idle] + ([set(idle)] if len(idle) > 1 else [])
    for workers in sets:
        yield len(present), workers, len(present) + 1
        for index in open_replicas:
            own = {member for stage in present[index] for member in stage.group.members}
            yield index, own | workers, len(present)


def _meets(candidate: Comparable, before: Comparable, goal: Goal) -> bool:
    """Whether a plan meets the latency target, or misses it by no more than before."""
    return goal.latency_slo_s is None or candidate.loaded_s <= max(goal.latency_slo_s, before.loaded_s)
