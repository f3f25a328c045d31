"""The beam: which ways it keeps, and when it gives up."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.planner.search.beam import beam_replica
from shoal.planner.search.problem import ReplicaProblem, StageTimes
from tests.planner.search.random_fleets import mixed_fleet


def test_many_classes_of_one_worker_are_searched_as_well() -> None:
    """More states than fit into any integer: 80 workers, every one of a class of its own."""
    num_workers, num_blocks = 80, 12
    numbers: np.ndarray = np.arange(num_blocks + 1)
    layers = numbers[np.newaxis, :] - numbers[:, np.newaxis]
    slowness = np.where(np.arange(num_workers) < 3, 1.0, 4.0)[:, np.newaxis, np.newaxis]
    work_s = np.where((layers > 0) & (layers <= 4), layers * slowness, np.inf)
    times = StageTimes(work_s=work_s, hop_s=np.zeros((num_workers, num_workers)))
    groups = tuple(tuple(int(one == other) for other in range(num_workers)) for one in range(num_workers))
    problem = ReplicaProblem(num_blocks=num_blocks, counts=(1,) * num_workers, groups=groups, times=lambda rows: times)
    found = beam_replica(problem, 1)
    assert found is not None
    assert sorted(stage.group for stage in found.stages) == [0, 1, 2]
    assert found.period_s == pytest.approx(12.0)


def test_groups_of_unlike_workers_take_one_of_each() -> None:
    problem = mixed_fleet([4, 3, 0, 5, 2])
    found = beam_replica(problem, 8)
    assert found is not None
    used = np.sum([problem.groups[stage.group] for stage in found.stages], axis=0)
    assert found.used == tuple(used.tolist())
    assert (used <= problem.counts).all()
