"""Replicas together: who gets a request, where it goes when workers are lost, who is started when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.events import RequestAdded, RequestCancelled
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.events import (
    GiveUp,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    ReportRecovery,
    StartWorkers,
    StopWorkers,
    Tick,
    WorkersProgressed,
)
from shoal.core.sequences.request import Request, RequestFinished, RequestId, TokenProduced
from shoal.errors import CapacityError, InvalidRequest
from shoal.protocol.language_messages import SampledToken, Step, StepResult
from tests.core.generation.scheduler_driver import make_config, make_request, next_token

RECOVERY = RecoveryConfig(worker_timeout_s=2.0, load_timeout_s=10.0, backoff_s=0.5, max_failures=4, crash_loop_s=0.0)
CONFIG = make_config()


class FleetDriver:
    """A fleet, the steps that its replicas owe, and what clients have received."""

    def __init__(self, num_replicas: int, recovery: RecoveryConfig = RECOVERY) -> None:
        self.fleet = ReplicaFleet([CONFIG] * num_replicas, recovery, [0.001] * num_replicas)
        self.now_s = 100.0
        self.owed: list[list[Step]] = [[] for _ in range(num_replicas)]
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, RequestFinished] = {}

    def tell(self, *events: FleetEvent) -> list[FleetEffect]:
        """Events and a tick; what came of them, but for steps and outputs."""
        rest: list[FleetEffect] = []
        for event in (*events, Tick()):
            for effect in self.fleet.handle(event, self.now_s):
                match effect:
                    case SubmitStep(replica=replica, step=step):
                        self.owed[replica].append(step)
                    case TokenProduced():
                        self.tokens.setdefault(effect.request_id, []).append(effect.token_id)
                    case RequestFinished():
                        assert effect.request_id not in self.finished
                        self.finished[effect.request_id] = effect
                    case StopWorkers(replica=replica):
                        self.owed[replica].clear()
                        rest.append(effect)
                    case _:
                        rest.append(effect)
        return rest

    def add(self, *requests: Request) -> None:
        self.tell(*(RequestAdded(request=request) for request in requests))

    def answer(self, replica: int) -> list[FleetEffect]:
        step = self.owed[replica].pop(0)
        tokens = tuple(SampledToken(token_id=next_token(sample)) for sample in step.samples)
        result = StepResult(step_id=step.step_id, generation=step.generation, tokens=tokens, compute_s=(0.01,))
        return self.tell(StepAnswered(replica=replica, result=result))

    def finish(self) -> None:
        while owing := [replica for replica, steps in enumerate(self.owed) if steps]:
            self.answer(owing[0])
        assert not self.fleet.has_work

    def lose(self, replica: int, **changes: object) -> list[FleetEffect]:
        return self.tell(replace(ReplicaLost(replica=replica, reason="killed"), **changes))

    def make_ready(self, replica: int) -> list[FleetEffect]:
        return self.tell(ReplicaReady(replica=replica, limits=CONFIG))

    def pass_time(self, seconds: float) -> list[FleetEffect]:
        self.now_s += seconds
        return self.tell()


def names(effects: list[FleetEffect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def test_workers_that_would_fail_alike_are_not_started_again():
    driver = FleetDriver(2)
    driver.add(make_request("a"), make_request("b"))
    effects = driver.lose(0, reason="the file has changed", is_final=True)
    assert names(effects) == ["StopWorkers", "GiveUp"]
    assert effects[-1] == GiveUp(replica=0, reason="the file has changed")
    driver.finish()
    driver.pass_time(1000.0)
    assert driver.tokens.keys() == {"a", "b"}
    assert driver.fleet.replicas[0].life.is_given_up


def test_requests_go_on_at_a_living_replica_and_the_lost_one_is_started_again():
    driver = FleetDriver(2)
    driver.add(make_request("a"), make_request("b"))
    driver.answer(0)
    driver.answer(1)
    effects = driver.lose(0)
    assert names(effects) == ["StopWorkers", "StartWorkers"]
    assert isinstance(effects[1], StartWorkers)
    assert (effects[1].replica, effects[1].generation, effects[1].without) == (0, 1, None)
    assert not driver.owed[0]
    driver.finish()
    assert driver.tokens == {"a": [100, 101, 102, 103], "b": [100, 101, 102, 103]}
    driver.now_s += 1.5
    assert driver.make_ready(0) == [ReportRecovery(replica=0, pause_s=1.5)]
    assert driver.fleet.stats().recoveries_s == (1.5,)
    driver.add(make_request("c"))
    assert driver.owed[0]


def test_where_nobody_is_left_requests_wait_and_new_ones_are_taken():
    driver = FleetDriver(1)
    driver.add(make_request("a"))
    driver.answer(0)
    driver.lose(0)
    driver.add(make_request("b"))
    assert driver.fleet.has_work
    driver.tell(RequestCancelled(request_id=RequestId("b")))
    assert driver.finished["b"].reason == "cancelled"
    driver.make_ready(0)
    driver.finish()
    assert driver.tokens == {"a": [100, 101, 102, 103]}


def test_requests_that_wait_go_to_the_first_replica_that_is_back():
    driver = FleetDriver(2)
    driver.add(make_request("a"), make_request("b"))
    driver.lose(0)
    driver.lose(1)
    assert [replica.scheduler.has_unfinished for replica in driver.fleet.replicas] == [False, True]
    driver.make_ready(0)
    driver.finish()
    assert driver.tokens.keys() == {"a", "b"}


def test_a_replica_that_is_about_to_be_back_keeps_its_requests():
    """Once it is known how long loading takes."""
    driver = FleetDriver(2)
    driver.lose(0)
    driver.now_s += 2.0
    driver.make_ready(0)
    driver.add(make_request("a"), make_request("b"))
    driver.answer(0)
    driver.lose(1)
    driver.now_s += 0.2
    driver.lose(0)
    driver.now_s += 1.7
    driver.make_ready(1)
    assert not driver.owed[1] or driver.owed[1][0].num_sequences == 1
    driver.now_s += 0.2
    driver.make_ready(0)
    driver.finish()
    assert driver.tokens == {"a": [100, 101, 102, 103], "b": [100, 101, 102, 103]}


def test_silence_is_a_loss_and_ends_the_workers():
    driver = FleetDriver(2)
    driver.add(make_request("a"))
    assert driver.fleet.wake_s() == driver.now_s + 2.0
    assert driver.pass_time(1.9) == []
    effects = driver.pass_time(0.2)
    assert names(effects) == ["StopWorkers", "StartWorkers"]
    assert isinstance(effects[0], StopWorkers)
    assert "no answer for 2.1 s" in effects[0].reason
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_silence_while_loading_is_a_loss_too():
    driver = FleetDriver(1)
    driver.lose(0)
    assert driver.pass_time(9.0) == []
    driver.tell(WorkersProgressed(replica=0))
    assert driver.pass_time(9.0) == []
    effects = driver.pass_time(1.1)
    assert names(effects) == ["StopWorkers"]
    assert names(driver.pass_time(0.5)) == ["StartWorkers"]


def test_who_gave_no_sign_is_named():
    driver = FleetDriver(1)
    driver.lose(0)
    driver.tell(WorkersProgressed(replica=0, waiting_for="stage 1 on h1"))
    (stop,) = driver.pass_time(10.0)
    assert isinstance(stop, StopWorkers)
    assert stop.reason == "no sign of life from stage 1 on h1 for 10.0 s"


def test_a_worker_for_which_all_others_wait_in_vain_is_left_out_in_the_end():
    driver = FleetDriver(1, replace(RECOVERY, max_failures=9))
    driver.lose(0)
    for _ in range(RECOVERY.replan_after):
        driver.tell(WorkersProgressed(replica=0, silent=1))
        assert names(driver.pass_time(RECOVERY.load_timeout_s)) == ["StopWorkers"]
        (start,) = driver.pass_time(RECOVERY.max_backoff_s)
    assert isinstance(start, StartWorkers)
    assert start.without == 1


def test_once_it_is_known_how_long_loading_takes_a_hung_worker_is_noticed_sooner():
    driver = FleetDriver(1)
    driver.lose(0)
    driver.now_s += 0.5
    driver.make_ready(0)
    driver.add(make_request("a"))
    driver.answer(0)
    driver.lose(0)
    assert driver.pass_time(1.9) == []
    assert names(driver.pass_time(0.2)) == ["StopWorkers"]
    assert names(driver.pass_time(0.5)) == ["StartWorkers"]
    assert driver.pass_time(3.9) == [], "it may have become slow"
    assert names(driver.pass_time(0.2)) == ["StopWorkers"]


def test_a_machine_that_is_gone_is_done_without_within_four_seconds():
    """2 s of silence, and 2 s in which an attempt finds out that the machine takes no connections."""
    driver = FleetDriver(1)
    driver.add(make_request("a"))
    assert names(driver.pass_time(2.0)) == ["StopWorkers", "StartWorkers"]
    driver.now_s += 2.0
    stop, start = driver.lose(0, worker=1, is_unreachable=True)
    assert isinstance(stop, StopWorkers)
    assert stop.keep
    assert isinstance(start, StartWorkers)
    assert start.without == 1
    driver.make_ready(0)
    driver.finish()
    assert driver.fleet.stats().reduced == (True,)


def test_answers_that_make_no_sense_are_a_loss():
    driver = FleetDriver(2)
    driver.add(make_request("a"))
    step = driver.owed[0][0]
    nonsense = StepResult(step_id=step.step_id, generation=step.generation, tokens=())
    assert names(driver.tell(StepAnswered(replica=0, result=nonsense))) == ["StopWorkers", "StartWorkers"]
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_late_answers_of_lost_workers_change_nothing():
    driver = FleetDriver(1)
    driver.add(make_request("a"))
    late = driver.owed[0][0]
    driver.lose(0)
    driver.make_ready(0)
    result = StepResult(step_id=late.step_id, generation=late.generation, tokens=(SampledToken(token_id=1),))
    assert driver.tell(StepAnswered(replica=0, result=result)) == []
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_a_replica_that_fails_too_often_is_given_up_and_its_requests_move():
    driver = FleetDriver(2)
    driver.lose(1)
    driver.add(make_request("a"))
    driver.lose(0)
    for _ in range(3):
        driver.pass_time(10.0 - 0.1)
        effects = driver.lose(0, worker=0)
    assert names(effects) == ["StopWorkers", "GiveUp"]
    assert isinstance(effects[1], GiveUp)
    assert effects[1].reason == "4 failures in a row, the last: killed"
    assert driver.fleet.death is None
    driver.fleet.check(make_request("b"))
    driver.make_ready(1)
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_when_all_are_given_up_nothing_is_taken_any_more():
    driver = FleetDriver(1, replace(RECOVERY, max_failures=1))
    assert names(driver.lose(0)) == ["StopWorkers", "GiveUp"]
    assert driver.fleet.death == "killed"
    with pytest.raises(CapacityError, match="no replica is left"):
        driver.fleet.check(make_request("a"))
    assert driver.fleet.wake_s() is None


def test_what_can_never_be_served_is_refused():
    driver = FleetDriver(1)
    with pytest.raises(InvalidRequest):
        driver.fleet.check(make_request("a", prompt=64))


def test_other_workers_take_the_place_of_running_ones():
    driver = FleetDriver(1)
    driver.add(make_request("a"), make_request("b"))
    driver.answer(0)
    driver.owed[0].clear()
    other = make_config(num_micro_batches=2, prefill_chunk_tokens=8)
    assert driver.tell(ReplicaReady(replica=0, limits=other)) == [ReportRecovery(replica=0, pause_s=None)]
    assert driver.fleet.replicas[0].scheduler.config == other
    assert {step.generation for step in driver.owed[0]} == {1}
    driver.finish()
    assert driver.tokens == {"a": [100, 101, 102, 103], "b": [100, 101, 102, 103]}
    assert driver.fleet.stats().num_losses == 0
    assert driver.fleet.stats().num_recoveries == 0
    assert driver.fleet.replicas[0].scheduler.stats().num_replays == 2


def test_what_waits_for_room_goes_to_a_replica_that_joins():
    driver = FleetDriver(1)
    requests = [make_request(f"r{index}", max_tokens=3) for index in range(2 * CONFIG.max_seqs)]
    driver.add(*requests)
    assert driver.fleet.replicas[0].scheduler.stats().num_waiting == CONFIG.max_seqs
    driver.owed.append([])
    driver.tell(ReplicaJoined(limits=CONFIG, row_s=0.001))
    stats = [replica.scheduler.stats() for replica in driver.fleet.replicas]
    assert [one.num_running for one in stats] == [CONFIG.max_seqs] * 2
    assert [one.num_waiting for one in stats] == [0, 0]
    driver.finish()
    assert {len(tokens) for tokens in driver.tokens.values()} == {3}
    assert len(driver.finished) == len(requests)


def test_a_replica_that_joins_takes_what_others_have_lost():
    driver = FleetDriver(1)
    driver.add(make_request("a", max_tokens=3))
    driver.answer(0)
    driver.lose(0)
    driver.owed.append([])
    driver.tell(ReplicaJoined(limits=CONFIG, row_s=0.001))
    driver.finish()
    assert driver.finished["a"].num_output_tokens == 3


def test_a_request_that_takes_down_every_replica_is_failed_and_the_others_go_on():
    driver = FleetDriver(2)
    driver.add(make_request("poison"))
    driver.lose(0)
    driver.lose(1)
    driver.make_ready(0)
    driver.add(make_request("a"))
    assert [step.num_sequences for step in driver.owed[0]] == [1]
    driver.lose(0)
    assert driver.finished["poison"].reason == "error"
    driver.make_ready(1)
    driver.finish()
    assert driver.finished["a"].reason == "length"
