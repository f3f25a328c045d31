"""The choice of a plan: the best one of each kind is searched for, predicted under the workload, and compared.

If the same machines can form several fleets (few workers with many threads, or many with few), each one is searched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from shoal.errors import CapacityError
from shoal.planner.choice.candidate import Candidate, make_candidate
from shoal.planner.choice.compare import Alternative, compare
from shoal.planner.choice.costs.model_sizes import ModelSizes
from shoal.planner.choice.costs.stage_times import StageCosts
from shoal.planner.choice.goal import Goal
from shoal.planner.choice.groups import Group, make_groups
from shoal.planner.choice.no_fit import why_nothing_fits
from shoal.planner.predict.workload import Workload
from shoal.planner.search.pipeline import Pipeline
from shoal.planner.search.problem import ReplicaProblem
from shoal.planner.search.replica import best_replica
from shoal.planner.search.replicas import Replicas, best_replicas
from shoal.planner.speeds.speeds import Fleet
from shoal.protocol.stage_config import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChoice:
    """The plan that was chosen, and the plans that it was chosen from."""

    best: Candidate
    alternatives: tuple[Alternative[Candidate], ...]
    """One plan of every kind, in the order of KINDS."""
    bound_tokens_per_s: float
    """An upper bound for every plan on these workers, from the same speeds."""

    @property
    def gap(self) -> float:
        """The relative distance of the plan from the bound, (bound - found) / bound."""
        return max(0.0, 1.0 - self.best.searched_tokens_per_s / self.bound_tokens_per_s)

    def score(self, goal: Goal) -> float:
        """The chosen plan's score by the goal; higher is better."""
        return self.best.score(goal)


def choose(
    fleets: Sequence[Fleet], model: ModelSizes, workload: Workload, goal: Goal, precisions: Sequence[Precision]
) -> PlanChoice:
    """Compare every kind of split.

    Args:
        fleets: the fleets that the machines can form; a plan uses one of them.
        model: sizes at all of `precisions`.
        workload: the load to plan for.
        goal: the goal by which plans are compared.
        precisions: the precisions that a stage may have.

    Raises:
        CapacityError: the model fits nowhere. The message says what is missing and which smallest change suffices.
        ConfigError: no plan meets the latency target. The message names the nearest one.
    """
    searches = [_FleetSearch(fleet, model, workload, precisions) for fleet in fleets]
    candidates = [candidate for search in searches for candidate in search.candidates()]
    if not candidates:
        counted = [fleet for fleet in fleets if not fleet.is_for_copies]
        raise CapacityError(why_nothing_fits(counted, model, workload, precisions))
    compared = compare(
        candidates,
        goal,
        unit="a request",
        nearest=lambda one: _nearest_to_target(one, goal),
        why_none=lambda kind: "none fits, or none is better than a simpler kind",
    )
    return PlanChoice(
        best=compared.best,
        alternatives=compared.alternatives,
        bound_tokens_per_s=max(search.bound_tokens_per_s() for search in searches),
    )


def _nearest_to_target(nearest: Candidate, goal: Goal) -> str:
    return (
        f"no plan answers a request within {goal.latency_slo_s:g} s under this load; the nearest, {nearest.kind} on "
        f"{nearest.num_workers} workers, takes {nearest.loaded_s:.3g} s; allow that, or fewer streams"
    )


class _FleetSearch:
    """The searches on one fleet of workers."""

    def __init__(self, fleet: Fleet, model: ModelSizes, workload: Workload, precisions: Sequence[Precision]) -> None:
        every = make_groups(
            fleet.counts,
            precisions,
            max_shards=model.atoms.max_shards,
            max_expert_shards=model.atoms.max_expert_shards,
            whole_only=fleet.whole_only,
        )
        singles = tuple(group for group in every if group.is_single)

        def costs(
            load: Workload, groups: Sequence[Group], *, is_alone: bool, most_stages: int | None = None
        ) -> StageCosts:
            return StageCosts(
                fleet=fleet,
                model=model,
                workload=load,
                groups=groups,
                kv_streams=workload.streams,
                is_alone=is_alone,
                most_stages=most_stages,
            )

        lone_stream = replace(workload, streams=1)
        self._workload, self._is_for_copies = workload, fleet.is_for_copies
        self._lone = costs(lone_stream, every, is_alone=True)
        """Costs for a single stream."""
        self._lone_worker = self._lone if workload.streams == 1 else costs(workload, singles, is_alone=True)
        """Costs for all streams on one worker."""
        self._loaded = self._lone if workload.streams == 1 else costs(workload, every, is_alone=False)
        """Costs for all streams over all workers."""
        self._copied = self._lone if workload.streams == 1 else costs(workload, singles, is_alone=False, most_stages=1)
        """Costs for all streams over workers that each hold the whole model and the KV of their own streams."""

    def candidates(self) -> Iterator[Candidate]:
        """The best of every kind under the load, and the best of every kind for a lone request."""
        streams = self._workload.streams
        if self._is_for_copies:
            if copies := self._copies:
                yield make_candidate(self._copied, copies.pipelines, self._workload)
            return
        found = [(self._lone_worker, pipelines) for pipelines in _search_single(self._lone_worker, streams)]
        found += self._replicas()
        for costs, count in dict.fromkeys([(self._loaded, streams), (self._lone, 1)]):
            found += [(costs, pipelines) for pipelines in _search_one_replica(costs, count)]
        for costs, pipelines in found:
            yield make_candidate(costs, pipelines, self._workload)

    def bound_tokens_per_s(self) -> float:
        """The upper bound for this fleet. It includes single workers, which are faster while the others are idle."""
        if self._is_for_copies:
            return self._workload.output_tokens * self._copies.bound_streams_per_s if self._copies else 0.0
        singles = [one.streams_per_s for (one,) in _search_single(self._lone_worker, self._workload.streams)]
        copies = self._copies.bound_streams_per_s if self._copies else 0.0
        return self._workload.output_tokens * max([self._best_replicas.bound_streams_per_s, copies, *singles])

    def _replicas(self) -> Iterator[tuple[StageCosts, Sequence[Pipeline]]]:
        """Search for whole copies and for any split, each with its own costs."""
        if sum(self._loaded.problem().counts) == 1 or self._workload.streams == 1:
            return
        for costs, one in ((self._copied, self._copies), (self._loaded, self._best_replicas)):
            if one is not None and one.pipelines:
                yield costs, one.pipelines

    @cached_property
    def _copies(self) -> Replicas | None:
        """Whole copies of the model; None if none fits, or if a single stream cannot use several."""
        problem = self._copied.problem()
        if sum(problem.counts) == 1 or self._workload.streams == 1:
            return None
        found = best_replicas(problem.restricted(single_workers=True, max_stages=1), self._workload.streams)
        return found if found.pipelines else None

    @cached_property
    def _best_replicas(self) -> Replicas:
        return best_replicas(self._loaded.problem(), self._workload.streams)


def _search_single(costs: StageCosts, streams: int) -> Iterator[Sequence[Pipeline]]:
    problem = costs.problem(max_stages=1).restricted(single_workers=True)
    if pipeline := best_replica(problem, streams):
        yield [pipeline]


def _search_one_replica(costs: StageCosts, streams: int) -> Iterator[Sequence[Pipeline]]:
    """Search for the best pipeline, the best tensor group, and the best single replica of any kind."""
    problem = costs.problem()
    if sum(problem.counts) == 1:
        return
    for one in (problem.restricted(single_workers=True).without_whole_stages(), _only_groups(costs), problem):
        if pipeline := best_replica(one, streams):
            yield [pipeline]


def _only_groups(costs: StageCosts) -> ReplicaProblem:
    """The problem restricted to one stage of several shards."""
    return replace(costs.problem(max_stages=1), usable=tuple(not group.is_single for group in costs.groups))
