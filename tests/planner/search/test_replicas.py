"""Sets of replicas: as good as every set there is, and never above the bound."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from shoal.planner.search import partition
from shoal.planner.search.configuration import Configuration, generate_columns
from shoal.planner.search.pipeline import timed_pipeline
from shoal.planner.search.problem import ReplicaProblem, StageTimes
from shoal.planner.search.replicas import Replicas, best_replicas, counts_to_try
from tests.planner.search.brute_force import best_total
from tests.planner.search.random_fleets import mixed_fleet, small_problem


def check(problem: ReplicaProblem, plan: Replicas, num_streams: int) -> None:
    """A plan that can be carried out and whose figures are true."""
    assert plan.num_streams <= num_streams
    for index, count in enumerate(problem.counts):
        assert sum(pipeline.used[index] for pipeline in plan.pipelines) <= count
    for pipeline in plan.pipelines:
        assert pipeline == timed_pipeline(problem, pipeline.stages, pipeline.num_streams)
        assert [stage.first for stage in pipeline.stages] == [0, *(stage.last for stage in pipeline.stages[:-1])]
        assert pipeline.stages[-1].last == problem.num_blocks
    assert plan.streams_per_s <= plan.bound_streams_per_s * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(15))
def test_small_fleets_are_solved_as_by_brute_force(seed: int) -> None:
    problem = small_problem(seed)
    for num_streams in (1, 4):
        stream_counts = range(1, num_streams + 1)
        plan = best_replicas(problem, num_streams, stream_counts=stream_counts)
        check(problem, plan, num_streams)
        assert plan.streams_per_s == pytest.approx(best_total(problem, num_streams, stream_counts), rel=1e-9)
        assert plan.gap == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_streams_that_are_dealt_out_in_units_are_enough(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve streams in three units of four: no more are used than there are, and no plan exceeds the bound."""
    problem = small_problem(seed)
    exact = best_replicas(problem, 12)
    monkeypatch.setattr(partition, "_MOST_SHARES", 4)
    coarse = best_replicas(problem, 12)
    check(problem, coarse, 12)
    assert coarse.bound_streams_per_s >= exact.streams_per_s * (1 - 1e-9)
    assert coarse.streams_per_s >= 0.8 * exact.streams_per_s


def test_very_many_streams_are_planned_for_in_bounded_memory() -> None:
    problem = mixed_fleet([1] * 6)
    tracemalloc.start()
    try:
        plan = best_replicas(problem, 5000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    check(problem, plan, 5000)
    assert peak_bytes < 64 << 20


@pytest.mark.parametrize("seed", range(15, 40))
def test_no_plan_exceeds_the_bound_of_the_configuration_lp(seed: int) -> None:
    problem, _ = small_problem(seed).compact()
    rows = range(1, 5)
    configuration = Configuration(problem=problem, num_streams=4)
    bound = generate_columns(configuration, rows)
    best = best_total(problem, 4, rows)
    assert best <= bound * (1 + 1e-9)
    whole = configuration.whole()
    assert sum(pipeline.streams_per_s for pipeline in whole) <= best * (1 + 1e-9)


@pytest.mark.parametrize(("num_streams", "gap"), [(64, 0.03), (512, 0.03)])
def test_mixed_fleets_come_close_to_the_bound(num_streams: int, gap: float) -> None:
    problem = mixed_fleet([8] * 8)
    plan = best_replicas(problem, num_streams)
    check(problem, plan, num_streams)
    assert 0 <= plan.gap <= gap


def test_whole_copies_only() -> None:
    problem = mixed_fleet([8] * 8).restricted(single_workers=True, max_stages=1)
    plan = best_replicas(problem, 128)
    check(problem, plan, 128)
    assert {len(pipeline.stages) for pipeline in plan.pipelines} == {1}
    assert {pipeline.used.index(1) for pipeline in plan.pipelines} <= {5, 6, 7}  # who holds 42 GB
    assert plan.gap <= 0.03


def test_streams_without_end_leave_the_workers_as_the_only_limit() -> None:
    problem = mixed_fleet([2, 2, 2])
    plan, more = best_replicas(problem, 4096), best_replicas(problem, 10**9)
    check(problem, plan, 4096)
    assert plan.pipelines == more.pipelines


def test_streams_that_are_left_over_are_given_to_somebody() -> None:
    problem = mixed_fleet([0, 0, 0, 0, 0, 0, 0, 2])
    plan = best_replicas(problem, 7, stream_counts=[1, 2])
    check(problem, plan, 7)
    assert plan.num_streams == 7


def test_nothing_fits() -> None:
    nowhere = StageTimes(work_s=np.full((1, 3, 3), np.inf), hop_s=np.zeros((1, 1)))
    for count in (2, 500):
        problem = ReplicaProblem(num_blocks=2, counts=(count,), groups=((1,),), times=lambda rows: nowhere)
        plan = best_replicas(problem, 4)
        assert plan.pipelines == ()
        assert (plan.streams_per_s, plan.bound_streams_per_s, plan.gap) == (0, 0, 0)


def test_the_same_problem_has_the_same_answer() -> None:
    plans = [best_replicas(mixed_fleet([3] * 8), 100) for _ in range(2)]
    assert plans[0] == plans[1]


def test_counts_to_try_grow_by_half_and_end_with_what_there_is() -> None:
    assert counts_to_try(1) == [1]
    assert counts_to_try(5) == [1, 2, 3, 4, 5]
    assert counts_to_try(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert counts_to_try(10**9)[-1] == 1024
