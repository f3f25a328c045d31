"""What is told of a time of which most was skipped, against the same time simulated whole."""

from collections.abc import Sequence

import pytest

from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.cluster_simulation import ClusterSimulation
from shoal.sim.cluster.outcome import SimulationOutcome
from shoal.sim.faults import Absence, Crash, Fault
from shoal.sim.sampling.estimates import Sample
from shoal.sim.sampling.sampled_column import LatencyIntervals
from shoal.sim.sampling.sampled_simulation import SampledSimulation
from shoal.sim.sampling.sampler import SamplingConfig
from shoal.sim.traffic.visit import poisson
from tests.sim.cluster.example_clusters import make_replica, make_scenario

SEEDS, RATE, UNTIL_S = 2, 2.0, 2500.0
"""Many more seeds, of a longer time, were run when this was written."""
FAULTS = (
    Crash(at_s=1000.0, replica=0, noticed_after_s=0.003),
    Absence(at_s=1020.0, replica=1, worker=0, back_at_s=1100.0),
)


def make(seed: int, until_s: float, *, rate: float = RATE, faults: Sequence[Fault] = ()) -> ClusterScenario:
    traffic = poisson(rate, prompt_tokens=60, output_tokens=24, until_s=until_s, seed=seed)
    return make_scenario(traffic, make_replica("a"), make_replica("b", layers=(8,)), faults=faults)


def sampled(
    seed: int, until_s: float, *, rate: float = RATE, faults: Sequence[Fault] = ()
) -> tuple[SimulationOutcome, Sample]:
    config = SamplingConfig(rate_per_s=rate, until_s=until_s, precision=0.1)
    simulation = SampledSimulation(make(seed, until_s, rate=rate, faults=faults), config)
    outcome, log, sample = simulation.run_sampled()
    assert len(log.e2e_s) == sample.num_simulated
    return outcome, sample


def outside(seed: int) -> list[bool]:
    """Of the values of a time that is simulated whole, too: whether each is not within its interval."""
    whole, _ = ClusterSimulation(make(seed, UNTIL_S)).run()
    _, sample = sampled(seed, UNTIL_S)
    assert sample.num_simulated < 0.5 * whole.num_requests
    pairs = [(float(whole.num_requests), sample.num_requests)]
    for name in ("ttft", "tpot", "e2e"):
        within: LatencyIntervals = getattr(sample, name)
        pairs += [(getattr(getattr(whole, name), one), getattr(within, one)) for one in ("p50_s", "p95_s", "p99_s")]
    return [not one.low * (1 - 1e-9) <= value <= one.high * (1 + 1e-9) for value, one in pairs]


def test_nineteen_of_twenty_intervals_hold_the_true_value() -> None:
    told = [one for seed in range(SEEDS) for one in outside(seed)]
    assert sum(told) <= 0.05 * len(told)


def test_losses_and_returns_are_those_of_the_whole_time() -> None:
    whole, _ = ClusterSimulation(make(0, UNTIL_S, faults=FAULTS)).run()
    outcome, sample = sampled(0, UNTIL_S, faults=FAULTS)
    assert sample.num_simulated < 0.9 * whole.num_requests
    assert outcome.num_losses == whole.num_losses > 1
    assert outcome.num_lost == whole.num_lost == 0
    assert outcome.recoveries_s == pytest.approx(whole.recoveries_s, rel=0.2)
    assert outcome.duration_s == pytest.approx(whole.duration_s, rel=0.01)
    for machine, share in whole.busy_share.items():
        assert outcome.busy_share[machine] == pytest.approx(share, rel=0.1, abs=0.03)


def test_a_long_steady_state_is_known_from_a_small_part() -> None:
    outcome, sample = sampled(1, 200_000.0)
    assert sample.num_simulated < 0.01 * outcome.num_requests
    assert sample.simulated_share < 0.01
    assert outcome.num_requests == pytest.approx(RATE * 200_000.0, rel=0.01)
    assert outcome.output_tokens == pytest.approx(24 * outcome.num_requests, rel=0.1)
    assert sample.e2e.p50_s.low <= outcome.e2e.p50_s <= sample.e2e.p50_s.high
    assert outcome.e2e.p50_s < sample.e2e.p99_s.low


def test_a_queue_that_grows_is_no_steady_state() -> None:
    """All of the time is simulated where more comes than can be answered."""
    outcome, sample = sampled(3, 60.0, rate=40.0)
    whole, _ = ClusterSimulation(make(3, 60.0, rate=40.0)).run()
    assert whole.duration_s > 120.0
    assert (sample.num_stretches, sample.simulated_share) == (0, 1.0)
    assert (outcome.num_requests, outcome.output_tokens) == (whole.num_requests, whole.output_tokens)
    assert outcome.e2e.p99_s == pytest.approx(whole.e2e.p99_s)
