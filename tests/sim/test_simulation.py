"""Whole days in virtual time: bursts, losses, cancelled requests, short memory. Invariants hold after every turn."""

from pathlib import Path

import pytest

from shoal.sim.scenario import Scenario, make_scenario
from shoal.sim.simulation import Report, Simulation

NUM_SEEDS = 400
SEEDS_PER_TEST = 50
KEPT_SEEDS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "kept_seeds.txt").read_text().splitlines()
    if not line.startswith("#")
]


def run(seed: int) -> tuple[Scenario, Report]:
    scenario = make_scenario(seed)
    try:
        return scenario, Simulation(scenario).run()
    except Exception as error:
        raise AssertionError(f"seed {seed} (add it to kept_seeds.txt): {error}") from error


@pytest.mark.parametrize("first", range(0, NUM_SEEDS, SEEDS_PER_TEST))
def test_invariants_hold(first):
    for seed in range(first, first + SEEDS_PER_TEST):
        scenario, report = run(seed)
        assert len(report.finished) == len(scenario.arrivals)
        assert report.ended_at_s <= latest_end_s(scenario)


def test_kept_seeds_hold():
    assert KEPT_SEEDS
    for seed in KEPT_SEEDS:
        run(seed)


def latest_end_s(scenario: Scenario) -> float:
    """A bounded wait for everybody: as if all requests ran one after the other, a token a step, on the slowest replica.

    Twice that, because lost and preempted work is done again.
    """
    config = scenario.config
    num_rows = sum(len(a.request.prompt_ids) + a.request.max_tokens for a in scenario.arrivals)
    step_s = max(cost.seconds(1) for cost in scenario.costs) * config.num_micro_batches
    idle_s = scenario.arrivals[-1].at_s + sum(loss.at_s + loss.rebuild_s for loss in scenario.losses)
    return idle_s + 2 * num_rows * step_s


def test_same_seed_same_trace():
    assert run(17)[1] == run(17)[1]


def test_other_seed_other_trace():
    assert run(17)[1].trace != run(18)[1].trace


def test_scenarios_reach_what_they_are_for():
    reports = [run(seed)[1] for seed in range(60)]
    reasons = {finished.reason for report in reports for finished in report.finished.values()}
    assert reasons == {"stop", "length", "cancelled", "error"}
    assert sum(report.num_preemptions for report in reports) > 10
    assert sum(report.prefix_hit_tokens for report in reports) > 100
    traces = [line for report in reports for line in report.trace]
    assert sum("workers lost" in line for line in traces) > 10
