"""Where a fleet's requests go, and what it tells of its workers' speed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from shoal.core.fleet.candidates import refusal
from shoal.core.fleet.events import FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.events import RequestAdded
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.kv.prefix_index import reusable_digests
from shoal.core.recovery.events import ReplicaLost, ReplicaReady, ReportSpeed, Tick
from shoal.core.sequences.request import RequestFinished
from shoal.core.speed.routing import Routing
from shoal.core.speed.slow_workers import WorkerRecovered, WorkerSlowed
from shoal.protocol.language_messages import SampledToken, StepResult
from tests.core.generation.scheduler_driver import make_config, make_request, next_token
from tests.core.speed.plain_routing import choose_replica

CONFIG = make_config(num_blocks=256, max_context=512, prefill_chunk_tokens=64)


class Machines:
    """A fleet whose workers take their time: 1 ms for a prompt row; 8 ms for a step with outputs and 2 ms for each."""

    def __init__(
        self,
        factors: Sequence[float],
        *,
        routing: Routing = "earliest-finish",
        configs: Sequence[SchedulerConfig] = (),
    ) -> None:
        self.fleet = ReplicaFleet(configs or [CONFIG] * len(factors), routing=routing)
        self.factors = list(factors)
        self.now_s = 0.0
        self.free_s = [0.0] * len(factors)
        self.out: list[tuple[float, int, StepAnswered]] = []
        self.reports: list[ReportSpeed] = []
        self.num_finished = 0

    def tell(self, event: FleetEvent) -> None:
        for effect in self.fleet.handle(event, self.now_s):
            if isinstance(effect, SubmitStep):
                self._compute(effect)
            elif isinstance(effect, ReportSpeed):
                self.reports.append(effect)
            elif isinstance(effect, RequestFinished):
                self.num_finished += 1

    def add(self, name: str, prompt: int | Sequence[int] = 32, max_tokens: int = 16) -> int:
        """Returns where it went."""
        before = [len(replica.inbox) for replica in self.fleet.replicas]
        self.tell(RequestAdded(request=make_request(name, prompt, max_tokens)))
        (index,) = [i for i, replica in enumerate(self.fleet.replicas) if len(replica.inbox) > before[i]]
        return index

    def finish(self) -> None:
        """Until nothing is left to do."""
        self.tell(Tick())
        while self.out:
            self.answer()

    def answer(self) -> None:
        """The next step that is done."""
        done = min(self.out, key=lambda one: one[0])
        self.out.remove(done)
        self.now_s, _, answered = done
        self.tell(answered)
        self.tell(Tick())

    def learn(self) -> None:
        """Every replica computes something; afterwards its speed is known."""
        for number in range(12 * len(self.factors)):
            self.add(f"learn {number}", prompt=16 + number, max_tokens=8)
            if number % 6 == 5:
                self.finish()
        self.finish()
        assert all(replica.meter.speed(self.now_s) for replica in self.fleet.replicas)

    def _compute(self, effect: SubmitStep) -> None:
        shape, index = effect.work.shape, effect.replica
        seconds = 0.001 * shape.prompt_rows + (0.008 + 0.002 * shape.output_rows) * (shape.output_rows > 0)
        seconds *= self.factors[index]
        self.free_s[index] = max(self.now_s, self.free_s[index]) + seconds
        result = StepResult(
            step_id=effect.step.step_id,
            generation=effect.step.generation,
            tokens=tuple(SampledToken(token_id=next_token(sample)) for sample in effect.step.samples),
            compute_s=(seconds,),
        )
        self.out.append((self.free_s[index], index, StepAnswered(replica=index, result=result)))


def test_a_replica_at_half_speed_gets_the_smaller_part() -> None:
    machines = Machines([2.0, 1.0])
    machines.learn()
    placed = [machines.add(f"r{number}") for number in range(15)]
    assert 2 <= placed.count(0) <= 5
    assert placed[0] == 1
    machines.finish()
    assert machines.num_finished == 24 + 15


def test_replicas_that_are_alike_get_equal_parts() -> None:
    machines = Machines([1.0, 1.04, 1.0])
    machines.learn()
    placed = [machines.add(f"r{number}") for number in range(12)]
    assert [placed.count(index) for index in range(3)] == [4, 4, 4]


def test_round_robin_does_not_look() -> None:
    machines = Machines([5.0, 1.0], routing="round-robin")
    assert [machines.add(f"r{number}") for number in range(6)] == [0, 1, 0, 1, 0, 1]
    machines.finish()
    machines.tell(ReplicaLost(replica=0, reason="gone"))
    assert [machines.add(f"s{number}") for number in range(3)] == [1, 1, 1]


def test_a_worker_that_slows_down_is_told_of_and_loses_its_share() -> None:
    machines = Machines([1.0, 1.0])
    machines.learn()
    machines.factors[0] = 3.0
    for wave in range(12):
        for number in range(6):
            machines.add(f"w{wave} {number}")
        machines.finish()
    (report,) = machines.reports
    assert report.replica == 0
    assert isinstance(report.change, WorkerSlowed)
    assert report.change.factor > 1.75
    placed = [machines.add(f"r{number}") for number in range(12)]
    assert placed.count(0) <= 5
    (slow,), (well,) = [replica.meter.slowdowns() for replica in machines.fleet.replicas]
    assert slow > 1.75
    assert well == pytest.approx(1.0, rel=0.1)
    machines.factors[0] = 1.0
    machines.finish()
    for wave in range(30):
        for number in range(8):
            machines.add(f"v{wave} {number}")
        machines.finish()
    assert [type(one.change) for one in machines.reports] == [WorkerSlowed, WorkerRecovered]
    assert [machines.add(f"q{number}") for number in range(8)].count(0) == 4


def test_a_prompt_goes_where_its_beginning_is_cached_unless_that_replica_has_slowed() -> None:
    prompt = [7 + number for number in range(200)]
    machines = Machines([1.0, 1.0])
    machines.learn()
    assert machines.add("blocker") == 0
    assert machines.add("first", prompt) == 1
    machines.finish()
    assert machines.add("again", prompt) == 1
    machines.finish()
    assert machines.add("a stranger", 200) == 0
    machines.finish()
    machines.factors[1] = 2.2
    for wave in range(12):
        for number in range(6):
            machines.add(f"w{wave} {number}")
        machines.finish()
    assert machines.fleet.replicas[1].meter.is_slow
    assert machines.add("and again", prompt) == 0


def test_other_workers_are_measured_anew() -> None:
    machines = Machines([1.0, 1.0])
    machines.learn()
    machines.add("r")
    machines.tell(Tick())
    machines.tell(ReplicaLost(replica=0, reason="gone"))
    machines.tell(ReplicaReady(replica=0, limits=CONFIG))
    assert machines.fleet.replicas[0].meter.speed(machines.now_s) is None
    assert machines.fleet.replicas[0].meter.slowdowns() == ()


def look_at_all(fleet: ReplicaFleet, prompt: Sequence[int], max_tokens: int, now_s: float) -> int:
    """Where a request belongs, by what each replica says."""
    request = make_request("x", prompt, max_tokens)
    serving = [one for one in fleet.replicas if one.is_serving]
    there = serving or [one for one in fleet.replicas if one.life.is_recovering]
    able = [one for one in there if refusal(one.scheduler.config, request) is None] or there
    digests = reusable_digests(prompt, CONFIG.block_size)
    loads = [one.load(now_s) for one in fleet.replicas]
    cached = [one.scheduler.cached_tokens(digests) for one in fleet.replicas]
    return choose_replica(
        loads,
        among=[one.index for one in able],
        prompt_tokens=len(prompt),
        output_tokens=max_tokens,
        cached_tokens=cached,
    )


@pytest.mark.parametrize("seed", range(12))
def test_where_a_request_goes_is_what_a_look_at_every_replica_says(seed: int) -> None:
    rng = random.Random(seed)
    factors = [rng.choice((1.0, 1.0, 1.1, rng.uniform(0.5, 4.0))) for _ in range(rng.randint(2, 12))]
    configs = [replace(CONFIG, num_blocks=rng.choice((8, 16, 256))) for _ in factors]
    machines = Machines(factors, configs=configs)
    beginnings = [[100 * number + one for one in range(64)] for number in range(1, 4)]
    num_chosen = 0
    for number in range(250):
        prompt = rng.choice(beginnings)[: rng.randint(0, 64)] + [
            rng.randrange(1, 99) for _ in range(rng.randint(1, 90))
        ]
        expected = look_at_all(machines.fleet, prompt, 8, machines.now_s)
        assert machines.add(f"r{number}", prompt, 8) == expected
        num_chosen += expected > 0
        if rng.random() < 0.5:
            machines.tell(Tick())
        for _ in range(min(rng.randrange(4), len(machines.out))):
            machines.answer()
        machines.now_s += rng.choice((0.0, 0.0, 0.0, 11.0))
        index = rng.randrange(len(factors))
        machines.factors[index] *= 3.0 if rng.random() < 0.02 else 1.0
        if rng.random() < 0.05 and sum(one.is_serving for one in machines.fleet.replicas) > 1:
            machines.tell(ReplicaLost(replica=index, reason="gone"))
            machines.tell(Tick())
        if rng.random() < 0.2 and not machines.fleet.replicas[index].is_serving:
            machines.tell(ReplicaReady(replica=index, limits=configs[index]))
    assert num_chosen
