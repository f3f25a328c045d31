"""How far stages reach within a limit."""

from __future__ import annotations

import numpy as np

from shoal.planner.search.coverage import covering, least_limit, reach, reach_back, reach_grid
from shoal.planner.search.fleet_states import fleet_states
from tests.planner.search.random_fleets import small_problem


def test_reach_is_the_longest_stage_within_the_limit() -> None:
    for seed in range(10):
        work_s = small_problem(seed).times(2).work_s
        limits = np.unique(work_s[work_s < np.inf])[::3]
        if not len(limits):
            continue
        places = range(work_s.shape[1])
        expected = [
            [[max([a, *(b for b in places if times[a, b] <= limit)]) for a in places] for times in work_s]
            for limit in limits
        ]
        assert np.moveaxis(reach(work_s, limits), 2, 0).tolist() == expected
        assert np.moveaxis(reach_grid(work_s, limits), 2, 0).tolist() == expected


def test_reach_back_is_the_longest_stage_that_ends_there() -> None:
    work_s = small_problem(3).times(1).work_s
    limit = float(np.median(work_s[work_s < np.inf]))
    places = range(work_s.shape[1])
    expected = [[min([b, *(a for a in places if times[a, b] <= limit)]) for b in places] for times in work_s]
    assert reach_back(work_s, limit).tolist() == expected


def test_the_least_limit_is_the_first_of_all_times_with_which_everything_can_be_covered() -> None:
    for seed in range(4):
        problem, _ = small_problem(seed).compact()
        states, work_s = fleet_states(problem), problem.times(2).work_s
        for num_stages in range(1, problem.stage_limit + 1):
            limits = np.unique(work_s[work_s < np.inf])
            enough = [len(covering(states, work_s, num_stages, float(limit)).complete) > 0 for limit in limits]
            expected = float(limits[enough.index(True)]) if any(enough) else None
            assert least_limit(states, work_s, num_stages, np.inf, 0.0) == expected
