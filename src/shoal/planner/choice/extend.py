"""Workers that come while a plan runs: what they are best used for, with as little of it changed as can be.

They make a replica of their own, or one of those that run is cut anew over its own workers and them. One replica at a
time changes, so that all others go on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from shoal.core.speed.replan import SMALLEST_GAIN
from shoal.planner.choice.candidate import Candidate, ChosenStage, chosen_stages, predict_candidate
from shoal.planner.choice.goal import Goal
from shoal.planner.choice.groups import make_groups
from shoal.planner.choice.model_sizes import ModelSizes
from shoal.planner.choice.stage_times import StageCosts
from shoal.planner.predict.workload import Workload
from shoal.planner.search.replica import best_replica
from shoal.planner.speeds.speeds import Fleet
from shoal.protocol.stage_config import Precision

Replicas = tuple[tuple[ChosenStage, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A plan in which one replica is new or has changed."""

    candidate: Candidate
    """All replicas, the changed one among them."""
    replica: int
    """Index of the replica that is new or has changed; new ones come last."""
    gain: float
    """By which part the plan is better than the one before."""


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
) -> Extension | None:
    """The best use of idle workers, or None where no use pays.

    Args:
        present: what runs.
        fleet: with classes of one worker each, those of `present` and the idle ones.
        idle: classes of the idle ones.
        open_replicas: indexes of those that may be cut anew.
        model: sizes at all of `precisions`.
        workload: the load to plan for.
        goal: what counts.
        precisions: that a stage may have.
    """
    found = _Extending(fleet, model, workload, precisions)
    before = found.predicted(present)
    score = before.score(goal)
    best: Extension | None = None
    for at, replica in found.changes(present, idle, open_replicas):
        candidate = found.predicted((*present[:at], replica, *present[at + 1 :]))
        gain = candidate.score(goal) / score - 1.0
        if _meets(candidate, before, goal) and gain >= max(SMALLEST_GAIN, best.gain if best else 0.0):
            best = Extension(candidate=candidate, replica=at, gain=gain)
    return best


class _Extending:
    def __init__(self, fleet: Fleet, model: ModelSizes, workload: Workload, precisions: Sequence[Precision]) -> None:
        self._fleet, self._model, self._workload = fleet, model, workload
        self._costs = StageCosts(
            fleet=fleet,
            model=model,
            workload=workload,
            groups=make_groups(
                fleet.counts,
                precisions,
                max_shards=model.atoms.max_shards,
                max_expert_shards=model.atoms.max_expert_shards,
            ),
            kv_streams=workload.streams,
            is_alone=False,
        )

    def predicted(self, replicas: Replicas) -> Candidate:
        """Make a candidate of replicas, with their prediction."""
        return predict_candidate(self._fleet, replicas, self._workload, hidden_bytes=self._model.hidden_bytes)

    def changes(
        self, present: Replicas, idle: Sequence[int], open_replicas: Collection[int]
    ) -> Iterator[tuple[int, tuple[ChosenStage, ...]]]:
        """Replicas to put at an index: of each idle worker and of all of them, alone or with those of a replica."""
        sets = [{one} for one in idle] + ([set(idle)] if len(idle) > 1 else [])
        for workers in sets:
            if replica := self._best(workers, len(present) + 1):
                yield len(present), replica
            for index in open_replicas:
                own = {member for stage in present[index] for member in stage.group.members}
                if replica := self._best(own | workers, len(present)):
                    yield index, replica

    def _best(self, workers: Collection[int], num_replicas: int) -> tuple[ChosenStage, ...] | None:
        problem = self._costs.problem()
        counts = tuple(int(index in workers) for index in range(len(self._fleet.classes)))
        pipeline = best_replica(replace(problem, counts=counts), -(-self._workload.streams // num_replicas))
        return None if pipeline is None else chosen_stages(self._costs, pipeline)


def _meets(candidate: Candidate, before: Candidate, goal: Goal) -> bool:
    """Whether a plan keeps the latency target, or misses it by less than before."""
    return goal.latency_slo_s is None or candidate.loaded_s <= max(goal.latency_slo_s, before.loaded_s)
