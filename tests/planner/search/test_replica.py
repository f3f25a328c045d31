"""One replica: as good as every pipeline there is, tried one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shoal.planner.search.beam import beam_replica
from shoal.planner.search.pipeline import PlacedStage, timed_pipeline
from shoal.planner.search.problem import ReplicaProblem, StageTimes
from shoal.planner.search.replica import best_replica, is_exact, replica_front
from tests.planner.search.brute_force import best_periods, front_of
from tests.planner.search.random_fleets import mixed_fleet, small_problem


def made_of(block_s: list[float], *, groups: list[tuple[int, ...]], counts: tuple[int, ...], hop_s: float = 0.0):
    """Groups whose speed is the number of their workers, and any memory."""
    before = np.concatenate([[0.0], np.cumsum(block_s)])
    speeds = np.array([sum(group) for group in groups], np.float64)
    work_s = (before[np.newaxis, :] - before[:, np.newaxis]) / speeds[:, np.newaxis, np.newaxis]
    work_s = np.where(np.tri(len(before), dtype=np.bool_), np.inf, work_s)
    times = StageTimes(work_s=work_s, hop_s=np.full((len(groups), len(groups)), hop_s))
    return ReplicaProblem(num_blocks=len(block_s), counts=counts, groups=tuple(groups), times=lambda rows: times)


@pytest.mark.parametrize("seed", range(25))
def test_replica_and_front_are_those_of_brute_force(seed: int) -> None:
    problem = small_problem(seed)
    for num_streams in (1, 3, 8, 40):
        best, figures = best_periods(problem, num_streams)
        found = best_replica(problem, num_streams)
        least_s = min((period_s for period_s, _ in best.values()), default=np.inf)
        if found is None:
            assert least_s == np.inf
            continue
        assert found.period_s == pytest.approx(least_s, rel=1e-9)
        same = [(sum(used), stages) for used, (period_s, stages) in best.items() if period_s <= least_s * (1 + 1e-9)]
        assert (found.num_workers, len(found.stages)) == min(same)
        assert found == timed_pipeline(problem, found.stages, num_streams)
        front = replica_front(problem, num_streams)
        expected = front_of(figures)
        assert [one.sum_s for one in front] == pytest.approx([sum_s for sum_s, _ in expected], rel=1e-9)
        rounds = [one.num_micro_batches * one.longest_s for one in front]
        assert rounds == pytest.approx([round_s for _, round_s in expected], rel=1e-9)


@pytest.mark.parametrize("seed", range(25))
def test_where_times_are_bounds_the_replica_is_still_that_of_brute_force(seed: int) -> None:
    problem = small_problem(seed)
    rng = np.random.default_rng(seed)
    parts = rng.uniform(0.6, 1.0, len(problem.groups))  # of the true seconds of each group's stages

    def bounded(rows: int) -> StageTimes:
        true = problem.times(rows)

        def exact_s(group: int, first: int, last: int) -> float:
            return float(true.work_s[group, first, last])

        work_s = true.work_s * parts[:, np.newaxis, np.newaxis]
        return StageTimes(work_s=work_s, hop_s=true.hop_s, exact_s=exact_s)

    for num_streams in (1, 3, 8):
        found = best_replica(replace(problem, times=bounded), num_streams)
        expected = best_replica(problem, num_streams)
        if expected is None:
            assert found is None
            continue
        assert found is not None
        assert found.period_s == pytest.approx(expected.period_s, rel=1e-9)
        assert found == timed_pipeline(problem, found.stages, num_streams)


def test_a_stage_that_turns_out_not_to_fit_is_not_taken() -> None:
    problem = made_of([1.0, 1.0], groups=[(1,), (2,)], counts=(2,))
    optimistic = replace(problem.times(1), exact_s=lambda group, first, last: np.inf if group else float(last - first))
    found = best_replica(replace(problem, times=lambda rows: optimistic), 8)
    assert found is not None
    assert [stage.group for stage in found.stages] == [0]
    nowhere = replace(problem.times(1), exact_s=lambda group, first, last: np.inf)
    assert best_replica(replace(problem, times=lambda rows: nowhere), 8) is None


def test_equal_periods_go_to_fewer_workers() -> None:
    problem = made_of([1.0, 1.0], groups=[(1,), (2,)], counts=(4,))
    found = best_replica(problem, 8)
    assert found is not None
    assert found.period_s == pytest.approx(1.0)  # as fast as two stages of two workers each, whose 2 * 0.5 is the same
    assert found.stages == (PlacedStage(group=1, first=0, last=2),)


def test_a_hop_that_costs_more_than_it_gains_is_not_taken() -> None:
    assert len(_stages(hop_s=0.1)) == 2
    assert len(_stages(hop_s=5.0)) == 1
    assert len(_stages(hop_s=np.inf)) == 1


def _stages(*, hop_s: float) -> tuple[PlacedStage, ...]:
    work_s = np.full((1, 3, 3), np.inf)
    work_s[0, [0, 1, 0], [1, 2, 2]] = [1.0, 1.0, 2.0]

    def times(rows: int) -> StageTimes:
        return StageTimes(work_s=work_s * rows, hop_s=np.array([[hop_s]]))

    found = best_replica(ReplicaProblem(num_blocks=2, counts=(2,), groups=((1,),), times=times), 4)
    assert found is not None
    return found.stages


def test_what_fits_nowhere_is_none() -> None:
    problem = made_of([1.0, 1.0], groups=[(1,)], counts=(2,))
    times = problem.times(1)
    nowhere = StageTimes(work_s=np.full_like(times.work_s, np.inf), hop_s=times.hop_s)
    empty = ReplicaProblem(num_blocks=2, counts=(2,), groups=((1,),), times=lambda rows: nowhere)
    assert best_replica(empty, 4) is None
    assert replica_front(empty, 4) == ()


def test_kinds_of_plans_are_restrictions() -> None:
    problem = mixed_fleet([1, 1, 1, 1, 1, 1])
    tensor = best_replica(problem.restricted(max_stages=1), 16)
    single = best_replica(problem.restricted(single_workers=True, max_stages=1), 16)
    pipeline = best_replica(problem.restricted(single_workers=True), 16)
    free = best_replica(problem, 16)
    assert single is None  # 42 GB are in none of the first six classes
    assert tensor is not None
    assert pipeline is not None
    assert free is not None
    assert len(tensor.stages) == 1
    assert {sum(problem.groups[stage.group]) for stage in pipeline.stages} == {1}
    assert free.period_s <= min(tensor.period_s, pipeline.period_s)


def test_a_wider_step_keeps_the_quickest_and_thins_the_rest() -> None:
    problem = mixed_fleet([1, 1, 0, 1, 1])
    every, some = replica_front(problem, 8), replica_front(problem, 8, step=0.2)
    assert every[0].sum_s == some[0].sum_s
    assert 1 <= len(some) < len(every)


def test_the_same_problem_has_the_same_answer() -> None:
    assert best_replica(mixed_fleet([1] * 6), 64) == best_replica(mixed_fleet([1] * 6), 64)


@pytest.mark.parametrize("seed", range(20))
def test_beam_finds_pipelines_that_exist_and_none_that_is_too_good(seed: int) -> None:
    problem = small_problem(seed)
    exact, found = best_replica(problem, 8), beam_replica(problem, 8)
    if found is not None:
        assert exact is not None
        assert found == timed_pipeline(problem, found.stages, 8)
        assert [stage.first for stage in found.stages] == [0, *(stage.last for stage in found.stages[:-1])]
        assert all(use <= count for use, count in zip(found.used, problem.counts, strict=True))
        assert found.period_s >= exact.period_s * (1 - 1e-9)


def test_large_fleets_take_the_beam() -> None:
    problem = mixed_fleet([8] * 8).restricted(single_workers=True)
    found = best_replica(problem, 16)
    assert not is_exact(problem)
    assert found is not None
    assert found.stages[-1].last == 80
    assert found.period_s < np.inf
