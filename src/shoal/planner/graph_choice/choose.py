"""The choice of a split for a graph on one machine: every division of its workers into copies, stages and shards is
predicted, and the best of each kind is compared.

A single worker and whole copies are always among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.compare import compare
from shoal.planner.choice.goal import Goal
from shoal.planner.choice.kinds import Kind
from shoal.planner.graph_choice.candidate import GraphCandidate, kind_of_spec, make_candidate
from shoal.planner.graph_choice.choice import GraphChoice, nearest_to_target
from shoal.planner.graph_choice.speeds import GraphSpeeds, LayoutSpeed, ShardSpeed
from shoal.planner.graph_cut import cut_stages
from shoal.planner.memory.fit import format_bytes
from shoal.planner.split.split_spec import SplitSpec

_FEWEST_WORKERS: dict[Kind, int] = {"single": 1, "replicas": 2, "pipeline": 2, "tensor": 2, "mixed": 4}

Considered = GraphCandidate | str
"""A candidate, or the reason why there is none."""


def choose_graph(speeds: GraphSpeeds, goal: Goal) -> GraphChoice[GraphCandidate]:
    """Compare every kind of split.

    Raises:
        CapacityError: the graph does not fit even once.
        ConfigError: no split meets the latency target. The message names the nearest one.
    """
    considered = consider_all(speeds)
    candidates = [one for one in considered.values() if isinstance(one, GraphCandidate)]
    if not candidates:
        raise CapacityError(_too_large(speeds))
    compared = compare(
        candidates,
        goal,
        unit="a micro-batch",
        nearest=lambda one: nearest_to_target(one, goal),
        why_none=lambda kind: _why_none(kind, considered, speeds),
    )
    return GraphChoice(
        best=compared.best, alternatives=compared.alternatives, bound_rows_per_s=_bound(speeds, candidates)
    )


def consider_all(speeds: GraphSpeeds) -> dict[SplitSpec, Considered]:
    """Consider every split over all workers of every layout, with numbers of shards that were measured."""

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
            return f"{spec} needs {format_bytes(needed)} for weights; {format_bytes(speeds.available_bytes)} are free"
        return candidate

    return {
        spec: consider(layout, spec)
        for layout in speeds.layouts
        for spec in splits_of_workers(layout.num_workers)
        if spec.num_shards == 1 or spec.num_shards in speeds.shards
    }


def splits_of_workers(num_workers: int) -> Iterator[SplitSpec]:
    """All splits whose copies, stages and shards multiply to `num_workers`."""
    for num_replicas in _divisors(num_workers):
        for num_stages in _divisors(num_workers // num_replicas):
            num_shards = num_workers // num_replicas // num_stages
            yield SplitSpec(num_replicas=num_replicas, num_stages=num_stages, shares=(1,) * num_shards)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _why_none(kind: Kind, considered: dict[SplitSpec, Considered], speeds: GraphSpeeds) -> str:
    """Why there is no candidate of a kind: the reason of its first split that was considered."""
    for spec, reason in considered.items():
        if kind_of_spec(spec) == kind and isinstance(reason, str):
            return reason
    most = max(layout.num_workers for layout in speeds.layouts)
    return f"takes {_FEWEST_WORKERS[kind]} workers; the {speeds.num_cores} cores make {most} of these threads at most"


def _bound(speeds: GraphSpeeds, candidates: Sequence[GraphCandidate]) -> float:
    """The upper bound: rows per second of workers that are always busy, or of a candidate that is measured to exceed
    it."""
    ideal = [layout.num_workers * speeds.rows / layout.compute_s for layout in speeds.layouts]
    return max(*ideal, *(one.prediction.rows_per_s for one in candidates))


def _too_large(speeds: GraphSpeeds) -> str:
    needed = speeds.weight_bytes(0, speeds.num_nodes)
    missing = format_bytes(needed - speeds.available_bytes)
    return (
        f"{speeds.model} needs {format_bytes(needed)} for its weights, but {format_bytes(speeds.available_bytes)} are "
        f"free; {missing} are missing, however it is split on this machine"
    )
