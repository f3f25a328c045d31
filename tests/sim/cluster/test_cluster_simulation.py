"""Clusters in virtual time: against sums made by hand, against queueing theory, and through losses."""

from dataclasses import replace
from math import inf

import pytest

from shoal.planner.files.fault_file import DescribedFault
from shoal.planner.speeds.unevenness import EVEN, Unevenness
from shoal.sim.cluster.cluster_faults import NOTICED_S, faults_of
from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.cluster_simulation import ClusterSimulation
from shoal.sim.cluster.outcome import SimulationOutcome
from shoal.sim.faults import Absence, Crash, Fault, Hang
from shoal.sim.traffic.visit import Clients, Visit, poisson
from tests.planner.example_speeds import MS
from tests.sim.cluster.example_clusters import LOAD_S, make_replica, make_scenario


def run(scenario: ClusterScenario) -> SimulationOutcome:
    return ClusterSimulation(scenario).run()[0]


def lone(prompt: int, output: int) -> list[Visit]:
    return [Visit(at_s=1.0, prompt_tokens=prompt, output_tokens=output)]


def test_a_lone_request_takes_the_sum_of_its_steps() -> None:
    outcome = run(make_scenario(iter(lone(100, 11)), make_replica("m")))
    # 4 layers of 100 x (0.1 + 0.3) ms and the head for 1 row, 2 ms; the last MLP only for 1 of the rows: - 30 + 1 ms
    assert outcome.ttft.p50_s == pytest.approx((160 + 2 - 29) * MS)
    assert outcome.tpot.p50_s == pytest.approx((4 * 2 + 2) * MS)
    assert outcome.e2e.p50_s == pytest.approx((133 + 10 * 10) * MS)
    assert (outcome.num_requests, outcome.prompt_tokens, outcome.output_tokens) == (1, 100, 11)
    assert outcome.busy_share == pytest.approx({"m-0": 0.233 / 1.233})


def test_a_stage_after_the_other_and_prompts_in_pieces() -> None:
    outcome = run(make_scenario(iter(lone(100, 11)), make_replica("m", layers=(2, 2))))
    assert outcome.tpot.p50_s == pytest.approx((4 * 2 + 2) * MS)
    # two pieces of 50 rows: 2 x 40 ms in the first stage, then the second piece in the last: 40 + 2 - 15 + 1
    assert outcome.ttft.p50_s == pytest.approx((80 + 28) * MS)


def test_waiting_is_what_queueing_theory_says() -> None:
    """One request at a time, random arrivals, equal lengths: M/D/1, whose mean wait is known.

    Source: Pollaczek (1930), Khinchine (1932): rho D / (2 (1 - rho)).
    """
    service_s, load = 0.133, 0.6
    visits = poisson(load / service_s, prompt_tokens=100, output_tokens=1, until_s=1000.0, seed=3)
    outcome, log = ClusterSimulation(make_scenario(visits, make_replica("m", max_seqs=1))).run()
    wait_s = sum(log.e2e_s) / len(log.e2e_s) - service_s
    assert wait_s == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.1)
    assert outcome.busy_share["m-0"] == pytest.approx(load, rel=0.05)


def test_a_closed_loop_keeps_its_clients_busy() -> None:
    clients = Clients(count=4, prompt_tokens=16, output_tokens=8, until_s=5.0)
    outcome, log = ClusterSimulation(make_scenario(clients, make_replica("a"), make_replica("b"))).run()
    under_way = sum(log.e2e_s) / outcome.duration_s
    assert under_way == pytest.approx(4, rel=0.03)
    assert outcome.requests_per_s * (sum(log.e2e_s) / len(log.e2e_s)) == pytest.approx(under_way)  # Little's law


def test_clients_of_unlike_replicas_do_not_stay_in_step() -> None:
    """Four clients for each of two replicas, whose prompts together fill a step.

    Two that are equally fast do everything at the same times. All prompts of a wave come one after the other then, and
    most of them wait for others, on whichever replica. One that is somewhat slower falls behind, so that a request
    which ends on it finds the other one at a time when that reads no prompts.
    """

    def first_s(*swings: Unevenness) -> float:
        clients = Clients(count=8, prompt_tokens=128, output_tokens=128, until_s=inf, num_requests=80)
        replicas = [replace(make_replica(f"r{index}"), unevenness=one) for index, one in enumerate(swings)]
        return run(make_scenario(clients, *replicas)).ttft.p50_s

    slower = Unevenness([1.0], [1.1])
    in_step = min(first_s(EVEN, EVEN), first_s(slower, slower) / 1.1)
    assert first_s(EVEN, slower) < 0.85 * in_step


def test_each_replica_is_as_fast_as_its_own_swings_say() -> None:
    """A request at once after the other, so that each has a replica to itself; the second is at half its speed."""
    visits = [Visit(at_s=1.0, prompt_tokens=100, output_tokens=11)] * 2
    replicas = [replace(make_replica(name), unevenness=one) for name, one in (("a", EVEN), ("b", Unevenness([1], [2])))]
    outcome, log = ClusterSimulation(make_scenario(iter(visits), *replicas)).run()
    assert sorted(log.e2e_s) == pytest.approx([0.233, 2 * 0.233])
    assert outcome.busy_share["b-0"] == pytest.approx(2 * outcome.busy_share["a-0"])


def test_the_same_seed_gives_the_same_outcome() -> None:
    def outcome(seed: int) -> SimulationOutcome:
        visits = poisson(10.0, prompt_tokens=50, output_tokens=20, until_s=5.0, seed=seed)
        return run(
            make_scenario(
                visits,
                make_replica("a"),
                make_replica("b"),
                faults=[Crash(at_s=2.0, replica=0, noticed_after_s=NOTICED_S)],
            )
        )

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


@pytest.mark.parametrize(
    "fault",
    [
        Crash(at_s=2.0, replica=0, noticed_after_s=NOTICED_S),
        Hang(at_s=2.0, replica=0),
        Absence(at_s=2.0, replica=0, worker=1, back_at_s=inf),
        Absence(at_s=2.0, replica=0, worker=0, back_at_s=6.0),
    ],
    ids=["kill", "hang", "cable", "cable and return"],
)
@pytest.mark.parametrize("num_replicas", [1, 2])
def test_no_request_is_lost(fault: Fault, num_replicas: int) -> None:
    def outcome(*faults: Fault) -> tuple[SimulationOutcome, float]:
        visits = poisson(8.0, prompt_tokens=50, output_tokens=20, until_s=10.0, seed=0)
        replicas = [make_replica(f"r{index}", layers=(2, 2)) for index in range(num_replicas)]
        found, log = ClusterSimulation(make_scenario(visits, *replicas, faults=faults)).run()
        return found, sum(log.e2e_s)

    undisturbed, undisturbed_s = outcome()
    disturbed, disturbed_s = outcome(fault)
    assert (disturbed.num_lost, disturbed.num_refused, disturbed.num_given_up) == (0, 0, 0)
    assert disturbed.num_requests == undisturbed.num_requests
    assert disturbed.num_losses >= 1
    assert disturbed.replayed_tokens > 0
    assert disturbed.recoveries_s[0] >= LOAD_S - 1e-9
    assert disturbed_s > undisturbed_s


def test_a_hang_is_noticed_after_the_patience() -> None:
    killed, hung = (
        run(make_scenario(iter(lone(100, 300)), make_replica("m"), faults=[fault])).e2e.p50_s
        for fault in (Crash(at_s=2.0, replica=0, noticed_after_s=NOTICED_S), Hang(at_s=2.0, replica=0))
    )
    assert hung - killed == pytest.approx(2.0, abs=0.1)  # RecoveryConfig.worker_timeout_s


def test_a_machine_that_stays_away_takes_its_lone_replica_with_it() -> None:
    visits = poisson(5.0, prompt_tokens=50, output_tokens=20, until_s=60.0, seed=0)
    gone = Absence(at_s=2.0, replica=0, worker=0, back_at_s=inf)
    outcome = run(make_scenario(visits, make_replica("a"), make_replica("b"), faults=[gone]))
    assert (outcome.num_lost, outcome.num_given_up) == (0, 1)


def test_where_nothing_is_left_requests_are_lost() -> None:
    visits = poisson(5.0, prompt_tokens=50, output_tokens=20, until_s=60.0, seed=0)
    outcome = run(
        make_scenario(visits, make_replica("a"), faults=[Absence(at_s=2.0, replica=0, worker=0, back_at_s=inf)])
    )
    assert outcome.num_lost > 0


def test_faults_name_machines_or_workers() -> None:
    machines = [("a", "b"), ("b", "c")]
    described = [
        DescribedFault(at_s=1.0, machine="b", kind="kill"),
        DescribedFault(at_s=2.0, replica=1, worker=1, kind="hang"),
        DescribedFault(at_s=3.0, machine="a", kind="cable"),
        DescribedFault(at_s=9.0, machine="a", kind="return"),
    ]
    assert faults_of(described, machines) == [
        Crash(at_s=1.0, replica=0, noticed_after_s=NOTICED_S),
        Crash(at_s=1.0, replica=1, noticed_after_s=NOTICED_S),
        Hang(at_s=2.0, replica=1),
        Absence(at_s=3.0, replica=0, worker=0, back_at_s=9.0),
    ]
