"""Whole days of an ONNX graph in virtual time: bursts of rows, deadlines, cancelled requests, poison; workers that
crash, hang, slow down, fail to start, join or are replaced; machines that leave and come back; links that lose, repeat,
delay."""

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest

from shoal.errors import InvalidRequest, WorkerLost
from shoal.sim.batches.scenario import BatchScenario, make_batch_scenario
from shoal.sim.batches.simulation import BatchReport, BatchSimulation
from shoal.sim.faults import Absence

NUM_SEEDS = 4000
SEEDS_PER_TEST = 250
RESTORED_S = 13.0
"""for a machine that is back to be seen, and for a replica to be given back its workers"""
KEPT_SEEDS = (35, 338, 3759)
"""Real: a batch that was held for a busy replica until the very time that it was, for ever; a replica that was given
back its workers while it was being started without one, and was taken to lack it all the same."""


@lru_cache(maxsize=300)
def run(seed: int) -> tuple[BatchScenario, BatchReport]:
    """Kept for the tests that look at the same seeds."""
    scenario = make_batch_scenario(seed)
    try:
        return scenario, BatchSimulation(scenario).run()
    except Exception as error:
        raise AssertionError(f"seed {seed} (add it to KEPT_SEEDS): {error}") from error


@pytest.mark.sample(every=16)
@pytest.mark.parametrize("first", range(0, NUM_SEEDS, SEEDS_PER_TEST))
def test_invariants_hold(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        scenario, report = run(seed)
        assert len(report.ended) == len(scenario.requests)
        assert report.ended_at_s <= latest_end_s(scenario, report)
        if not report.num_losses:
            assert not any(isinstance(error, WorkerLost) for error in report.ended.values())


def test_kept_seeds_hold() -> None:
    for seed in KEPT_SEEDS:
        run(seed)


def latest_end_s(scenario: BatchScenario, report: BatchReport) -> float:
    """A bounded wait for everybody: as if all rows ran one after the other on the slowest replica.

    Once more for each loss, with the time for noticing a worker that hangs, at the most patient, and for starting
    another.
    """
    recovery = scenario.recovery
    slowest = scenario.cold_factor * max(
        [1.0, *(fault.factor for fault in scenario.faults if hasattr(fault, "factor"))]
    )
    widest = max([*scenario.stages, *(fault.num_stages for fault in scenario.faults if hasattr(fault, "num_stages"))])
    largest = max(request.row_cost for request in scenario.requests) * scenario.config.max_batch
    batch_s = slowest * widest * max(cost.seconds(max(4, largest)) for cost in scenario.costs)
    num_rows = sum(request.num_rows for request in scenario.requests)
    noticing_s = max(recovery.worker_timeout_s, 64 * batch_s) + recovery.load_timeout_s
    starting_s = recovery.max_backoff_s + 3 * scenario.starting.longest_s
    last_s = max([scenario.requests[-1].at_s, *(fault.at_s + 0.5 for fault in scenario.faults)])
    last_s = max([last_s, *(fault.back_at_s + RESTORED_S for fault in scenario.faults if isinstance(fault, Absence))])
    last_s = max([last_s, *(one.cancelled_at_s for one in scenario.requests if one.cancelled_at_s is not None)])
    return last_s + (1 + report.num_losses) * (num_rows * batch_s + noticing_s + starting_s)


def test_a_hang_in_the_very_first_batch_is_noticed_at_once_and_a_slow_first_batch_is_waited_for() -> None:
    num_slow = 0
    for seed in range(200):
        scenario = make_batch_scenario(seed)
        slow = replace(scenario, cold_factor=3.0, faults=(), network=replace(scenario.network, drop_probability=0.0))
        first, *others = [replace(request, poison=None, timeout_s=None) for request in slow.requests]
        assert not BatchSimulation(replace(slow, requests=(first, *others))).run().num_losses, seed
        hangs = replace(slow, requests=(replace(first, cancelled_at_s=None, poison="hangs"),))
        times = [at_s for at_s, line in BatchSimulation(hangs).run().trace if line.startswith("StopWorkers")]
        pairs = zip(scenario.costs, scenario.stages, strict=True)
        rows_s = max(4, scenario.config.max_batch) * max(cost.seconds(1) * num_stages for cost, num_stages in pairs)
        least_s = scenario.recovery.worker_timeout_s
        assert times[0] - first.at_s < max(least_s, 4 * first.row_cost**2 * rows_s) + 1e-6, seed
        num_slow += 3 * rows_s > least_s
    assert num_slow > 20, "a first batch may need more than the least patience"


def test_same_seed_same_trace() -> None:
    assert run(17)[1].trace == run.__wrapped__(17)[1].trace


def test_other_seed_other_trace() -> None:
    assert run(17)[1].trace != run(18)[1].trace


def test_scenarios_reach_what_they_are_for() -> None:
    reports = [run(seed)[1] for seed in range(200)]
    ends = Counter(type(error).__name__ for report in reports for error in report.ended.values())
    assert ends["NoneType"] > 1000
    for name in ("QueueFull", "RequestAborted", "DeadlineExceeded", "WorkerLost"):
        assert ends[name] > 10, name
    errors = [str(error) for report in reports for error in report.ended.values() if isinstance(error, InvalidRequest)]
    for reason in ("cannot be computed", "did not survive"):
        assert any(reason in error for error in errors), reason
    assert sum(report.num_losses for report in reports) > 100
    assert sum(report.num_recoveries for report in reports) > 100
    lines = [line for report in reports for _, line in report.trace]
    for reason in ("the link is broken", "no answer for", "could not be loaded", "that load", "cannot be reached"):
        assert any("StopWorkers" in line and reason in line for line in lines), reason
    assert any("ReplicaJoined" in line for line in lines)
    assert any("pause_s=None" in line for line in lines), "workers were replaced"
    assert sum(report.num_reduced for report in reports) > 10
    assert sum(report.num_restored for report in reports) > 10
