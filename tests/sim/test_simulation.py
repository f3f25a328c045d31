"""Whole days in virtual time: bursts, cancelled requests, short memory; workers that crash, hang, slow down, fail to
start or are replaced, machines that leave and come back, requests that break workers, links that lose, repeat, delay.
Invariants hold after every event."""

from functools import lru_cache
from pathlib import Path

import pytest

from shoal.core.sequences.request import RequestFinished
from shoal.sim.faults import Absence
from shoal.sim.scenario import Scenario, make_scenario
from shoal.sim.simulation import NO_REPLICA, Report, Simulation

NUM_SEEDS = 2000
SEEDS_PER_TEST = 50
RESTORED_S = 13.0
"""for a machine that is back to be seen, and for a replica to be given back its workers"""
KEPT_SEEDS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "kept_seeds.txt").read_text().splitlines()
    if not line.startswith("#")
]


@lru_cache(maxsize=250)
def run(seed: int) -> tuple[Scenario, Report]:
    """Kept for the tests that look at the same seeds."""
    scenario = make_scenario(seed)
    try:
        return scenario, Simulation(scenario).run()
    except Exception as error:
        raise AssertionError(f"seed {seed} (add it to kept_seeds.txt): {error}") from error


@pytest.mark.sample(every=20)
@pytest.mark.parametrize("first", range(0, NUM_SEEDS, SEEDS_PER_TEST))
def test_invariants_hold(first):
    for seed in range(first, first + SEEDS_PER_TEST):
        scenario, report = run(seed)
        assert len(report.finished) == len(scenario.arrivals)
        assert report.ended_at_s <= latest_end_s(scenario, report)
        if not report.num_losses:
            assert not any(failed_for_workers(end) for end in report.finished.values())


def test_kept_seeds_hold():
    assert KEPT_SEEDS
    for seed in KEPT_SEEDS:
        run(seed)


def failed_for_workers(end: RequestFinished) -> bool:
    return end.breaks_workers or (end.reason == "error" and end.message == NO_REPLICA)


def latest_end_s(scenario: Scenario, report: Report) -> float:
    """A bounded wait for everybody: as if all requests ran one after the other, a token a step, on the slowest replica.

    Twice that, because preempted work is done again; and once more for each loss, with the time for noticing a worker
    that hangs in the longest step, at the most patient, and for starting another.
    """
    config, recovery = scenario.config, scenario.recovery
    num_rows = sum(len(a.request.prompt_ids) + a.request.max_tokens for a in scenario.arrivals)
    slowest = max([1.0, *(fault.factor for fault in scenario.faults if hasattr(fault, "factor"))])
    row_s = slowest * max(cost.seconds(1) for cost in scenario.costs) * config.num_micro_batches
    step_s = slowest * max(cost.seconds(config.max_step_tokens) for cost in scenario.costs) * config.num_micro_batches
    noticing_s = max(recovery.worker_timeout_s, 64 * step_s) + recovery.load_timeout_s
    starting_s = recovery.max_backoff_s + 3 * scenario.starting.longest_s
    last_s = max([scenario.arrivals[-1].at_s, *(fault.at_s + 0.5 for fault in scenario.faults)])
    last_s = max([last_s, *(fault.back_at_s + RESTORED_S for fault in scenario.faults if isinstance(fault, Absence))])
    return last_s + (1 + report.num_losses) * (2 * num_rows * row_s + noticing_s + starting_s)


def test_same_seed_same_trace():
    assert run(17)[1] == run.__wrapped__(17)[1]


def test_other_seed_other_trace():
    assert run(17)[1].trace != run(18)[1].trace


def test_scenarios_reach_what_they_are_for():
    runs = [run(seed) for seed in range(120)]
    reports = [report for _, report in runs]
    ends = [end for report in reports for end in report.finished.values()]
    assert {end.reason for end in ends} == {"stop", "length", "cancelled", "error"}
    assert sum(failed_for_workers(end) for end in ends) > 10
    assert sum(report.num_preemptions for report in reports) > 10
    assert sum(report.prefix_hit_tokens for report in reports) > 100
    assert sum(report.num_losses for report in reports) > 100
    assert sum(report.num_replays for report in reports) > 100
    assert sum(report.num_reduced for report in reports) > 10
    assert sum(report.num_restored for report in reports) > 10
    lines = [line for report in reports for line in report.lines()]
    by_newcomers = [f"replica {len(scenario.costs)} step" for scenario, _ in runs]
    assert any(step in line for (_, report), step in zip(runs, by_newcomers, strict=True) for line in report.lines())
    for reason in (
        "the link is broken",
        "no answer for",
        "could not be loaded",
        "out of order",
        "that load",
        "cannot be reached",
    ):
        assert any("StopWorkers" in line and reason in line for line in lines), reason
