"""The choice of a split for a graph: every way to make the machine's workers copies, stages and shards is predicted,
and the best of each kind compared.

"Do not split" and "whole copies" always stand beside the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.goal import Goal, choose_simplest
from shoal.planner.choice.kinds import KINDS, Kind
from shoal.planner.graph_choice.candidate import GraphCandidate, kind_of_spec, make_candidate
from shoal.planner.graph_choice.speeds import GraphSpeeds, LayoutSpeed, ShardSpeed
from shoal.planner.graph_cut import cut_stages
from shoal.planner.split.split_spec import SplitSpec

_FEWEST_WORKERS: dict[Kind, int] = {"single": 1, "replicas": 2, "pipeline": 2, "tensor": 2, "mixed": 4}
_GIB = 1 << 30

Considered = GraphCandidate | str
"""A split with its prediction, or why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphAlternative:
    """The best split of one kind, or why there is none."""

    kind: Kind
    candidate: GraphCandidate | None
    reason: str
    """why it was not taken; empty: it was"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphChoice:
    """The split that was chosen and what it was chosen from."""

    best: GraphCandidate
    alternatives: tuple[GraphAlternative, ...]
    """one of every kind, in the order of KINDS"""
    bound_rows_per_s: float
    """that no split of this machine exceeds by the same figures: all workers always busy, nothing moved"""

    @property
    def gap(self) -> float:
        """By how much, at most, a better split could be better: (bound - found) / bound."""
        return max(0.0, 1.0 - self.best.prediction.rows_per_s / self.bound_rows_per_s)


def choose_graph(speeds: GraphSpeeds, goal: Goal) -> GraphChoice:
    """Compare every kind of split.

    Raises:
        CapacityError: the graph does not even fit once.
        ConfigError: no split meets the latency target; says which comes nearest.
    """
    considered = consider_all(speeds)
    candidates = [one for one in considered.values() if isinstance(one, GraphCandidate)]
    if not candidates:
        raise CapacityError(_too_large(speeds))
    best_of_kind: dict[Kind, GraphCandidate | None] = {kind: _best(kind, candidates, goal) for kind in KINDS}
    allowed = [one for one in best_of_kind.values() if one is not None and _meets(one, goal)]
    if not allowed:
        raise ConfigError(_nearest_to_target(candidates, goal))
    best = choose_simplest(allowed, lambda one: _score(one, goal))
    return GraphChoice(
        best=best,
        alternatives=tuple(
            _alternative(kind, one, best, goal)
            if one is not None
            else GraphAlternative(kind=kind, candidate=None, reason=_why_none(kind, considered, speeds))
            for kind, one in best_of_kind.items()
        ),
        bound_rows_per_s=_bound(speeds, candidates),
    )


def consider_all(speeds: GraphSpeeds) -> dict[SplitSpec, Considered]:
    """Every way to use all workers of every layout, with as many shards as were measured."""

    @cache
    def cut(threads: int, num_stages: int) -> tuple[int, ...] | str:
        if num_stages == 1:
            return ()
        try:
            return cut_stages(speeds.node_s[threads], speeds.places, num_stages)
        except ConfigError as error:
            return str(error)

    def consider(layout: LayoutSpeed, spec: SplitSpec) -> Considered:
        boundaries = cut(layout.threads, spec.num_stages)
        shard = speeds.shards[spec.num_shards] if spec.num_shards > 1 else ShardSpeed(relative=1.0, weight_share=0.0)
        for one in (boundaries, shard):
            if isinstance(one, str):
                return one
        assert not isinstance(boundaries, str)
        assert not isinstance(shard, str)
        candidate = make_candidate(speeds, layout, spec, boundaries, shard)
        needed = sum(candidate.prediction.memory_bytes)
        if needed > speeds.available_bytes:
            return f"{spec} needs {_gib(needed)} for weights; {_gib(speeds.available_bytes)} are free"
        return candidate

    return {
        spec: consider(layout, spec)
        for layout in speeds.layouts
        for spec in splits_of_workers(layout.num_workers)
        if spec.num_shards == 1 or spec.num_shards in speeds.shards
    }


def splits_of_workers(num_workers: int) -> Iterator[SplitSpec]:
    """Every product of copies, stages and shards that makes so many workers."""
    for num_replicas in _divisors(num_workers):
        for num_stages in _divisors(num_workers // num_replicas):
            num_shards = num_workers // num_replicas // num_stages
            yield SplitSpec(num_replicas=num_replicas, num_stages=num_stages, shares=(1,) * num_shards)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _score(candidate: GraphCandidate, goal: Goal) -> float:
    return goal.score(candidate.prediction.rows_per_s, candidate.prediction.latency_s)


def _meets(candidate: GraphCandidate, goal: Goal) -> bool:
    return goal.latency_slo_s is None or candidate.prediction.loaded_latency_s <= goal.latency_slo_s


def _best(kind: Kind, candidates: Sequence[GraphCandidate], goal: Goal) -> GraphCandidate | None:
    """Of a kind: first those that meet the target, then by the objective, then with fewer workers."""
    return max(
        (one for one in candidates if one.kind == kind),
        key=lambda one: (_meets(one, goal), _score(one, goal), -one.spec.num_workers),
        default=None,
    )


def _alternative(kind: Kind, candidate: GraphCandidate, best: GraphCandidate, goal: Goal) -> GraphAlternative:
    if candidate is best:
        reason = ""
    elif not _meets(candidate, goal):
        took_s = candidate.prediction.loaded_latency_s
        reason = f"a micro-batch takes {took_s:.3g} s, of {goal.latency_slo_s:g} s allowed"
    else:
        worse = 1.0 - _score(candidate, goal) / _score(best, goal)
        reason = f"{worse:.0%} worse by {goal.objective}" if worse > 0 else "no better, and more to split"
    return GraphAlternative(kind=kind, candidate=candidate, reason=reason)


def _why_none(kind: Kind, considered: dict[SplitSpec, Considered], speeds: GraphSpeeds) -> str:
    """The reason of the smallest split of the kind."""
    for spec, reason in considered.items():
        if kind_of_spec(spec) == kind and isinstance(reason, str):
            return reason
    most = max(layout.num_workers for layout in speeds.layouts)
    return f"takes {_FEWEST_WORKERS[kind]} workers; the {speeds.num_cores} cores make {most} of these threads at most"


def _nearest_to_target(candidates: Sequence[GraphCandidate], goal: Goal) -> str:
    nearest = min(candidates, key=lambda one: one.prediction.loaded_latency_s)
    took_s = nearest.prediction.loaded_latency_s
    return (
        f"no split takes a micro-batch through the graph within {goal.latency_slo_s:g} s; the nearest, "
        f"--split {nearest.spec}, takes {took_s:.3g} s; allow that, or fewer rows at once"
    )


def _bound(speeds: GraphSpeeds, candidates: Sequence[GraphCandidate]) -> float:
    """Rows/s of busy workers without a turn between micro-batches; shards that were measured to be better count."""
    ideal = [layout.num_workers * speeds.rows / layout.compute_s for layout in speeds.layouts]
    return max(*ideal, *(one.prediction.rows_per_s for one in candidates))


def _too_large(speeds: GraphSpeeds) -> str:
    needed = speeds.weight_bytes(0, speeds.num_nodes)
    missing = _gib(needed - speeds.available_bytes)
    return (
        f"{speeds.model} needs {_gib(needed)} for its weights, but {_gib(speeds.available_bytes)} are free; "
        f"{missing} are missing, however it is split on this machine"
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
