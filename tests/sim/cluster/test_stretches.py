"""Steps taken at once are the same steps: whatever happens, every client sees every token at the same time.

Both ways of simulating are run on the same random clusters, loads and faults, and compared to the last digit.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from math import inf

import pytest

from shoal.sim.cluster.cluster_faults import NOTICED_S
from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.cluster_simulation import ClusterSimulation
from shoal.sim.cluster.outcome import AnsweredRequests, SimulationOutcome
from shoal.sim.faults import Absence, Crash, Fault, Hang
from shoal.sim.traffic.visit import Clients, Traffic, Visit, poisson
from tests.sim.cluster.example_clusters import make_replica, make_scenario

SEEDS = 80
"""A thousand and more were run when this was written; these take some seconds."""


def make_traffic(rng: random.Random) -> Traffic:
    prompt, output = rng.randint(1, 60), rng.randint(1, 60)
    if rng.random() < 0.3:
        count = rng.randint(1, 12)
        return Clients(count=count, prompt_tokens=prompt, output_tokens=output, until_s=inf, num_requests=3 * count)
    if rng.random() < 0.3:
        return poisson(
            rng.uniform(1, 20), prompt_tokens=prompt, output_tokens=output, until_s=4.0, seed=rng.randrange(99)
        )
    return unlike_visits(rng)


def unlike_visits(rng: random.Random) -> Iterator[Visit]:
    """Of all lengths, some with prompts that begin alike, some at the same moment."""
    at_s = 0.0
    for _ in range(rng.randint(1, 30)):
        at_s += rng.choice((0.0, rng.expovariate(5.0)))
        hashes = (rng.randrange(3),) if rng.random() < 0.5 else ()
        yield Visit(at_s=at_s, prompt_tokens=rng.randint(1, 80), output_tokens=rng.randint(1, 120), hashes=hashes)


def make_faults(rng: random.Random, num_replicas: int) -> list[Fault]:
    faults: list[Fault] = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        at_s, replica = rng.uniform(0.0, 4.0), rng.randrange(num_replicas)
        faults.append(
            rng.choice(
                (
                    Crash(at_s=at_s, replica=replica, noticed_after_s=NOTICED_S),
                    Hang(at_s=at_s, replica=replica),
                    Absence(at_s=at_s, replica=replica, worker=0, back_at_s=at_s + rng.uniform(0.1, 8.0)),
                )
            )
        )
    return faults


def run(seed: int, *, takes_stretches: bool) -> tuple[SimulationOutcome, AnsweredRequests, int]:
    """Outcome, what clients saw, and turns that it took."""
    rng = random.Random(seed)
    layers = [rng.choice(((4,), (4,), (8,), (2, 2))) for _ in range(rng.randint(1, 4))]
    replicas = [
        replace(one, config=replace(one.config, num_blocks=rng.choice((24, 64, 4096)), max_context=256))
        for one in (
            make_replica(f"r{index}", layers=own, max_seqs=rng.choice((2, 8, 32))) for index, own in enumerate(layers)
        )
    ]
    scenario: ClusterScenario = make_scenario(make_traffic(rng), *replicas, faults=make_faults(rng, len(replicas)))
    simulation = ClusterSimulation(replace(scenario, takes_stretches=takes_stretches))
    outcome, log = simulation.run()
    return replace(outcome, num_checks=0), log, simulation.num_turns


def test_a_request_that_nobody_disturbs_takes_three_turns() -> None:
    """It comes, has all its tokens, and the next one comes: prompts and outputs are one event."""
    lone = Clients(count=1, prompt_tokens=20, output_tokens=50, until_s=inf, num_requests=10)
    simulation = ClusterSimulation(make_scenario(lone, make_replica("r0")))
    outcome, log = simulation.run()
    assert (outcome.num_requests, outcome.output_tokens) == (10, 500)
    assert simulation.num_turns <= 3 * 10
    stepwise = ClusterSimulation(replace(make_scenario(lone, make_replica("r0")), takes_stretches=False))
    assert stepwise.run()[1] == log


def test_prompts_that_are_over_draw_the_next_request() -> None:
    """Of two replicas one is still busy with a prompt, the other is past its own: their stretches go on."""
    visits = [
        Visit(at_s=0.0, prompt_tokens=400, output_tokens=200),
        Visit(at_s=0.0, prompt_tokens=40, output_tokens=200),
        *(Visit(at_s=at_s, prompt_tokens=40, output_tokens=5) for at_s in (0.1, 0.2, 0.3, 0.7, 0.9)),
    ]
    logs: list[AnsweredRequests] = []
    for takes_stretches in (False, True):
        scenario = make_scenario(iter(visits), make_replica("r0"), make_replica("r1"))
        logs.append(ClusterSimulation(replace(scenario, takes_stretches=takes_stretches)).run()[1])
    assert logs[0] == logs[1]


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_the_same_to_the_last_digit(first: int) -> None:
    num_turns = num_turns_at_once = 0
    for seed in range(first, first + 20):
        outcome, log, turns = run(seed, takes_stretches=False)
        outcome_at_once, log_at_once, turns_at_once = run(seed, takes_stretches=True)
        assert outcome_at_once == outcome, f"seed {seed}"
        assert log_at_once == log, f"seed {seed}"
        num_turns, num_turns_at_once = num_turns + turns, num_turns_at_once + turns_at_once
    assert num_turns_at_once < 0.8 * num_turns
