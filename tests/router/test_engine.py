"""The engine over replicas that are fakes: routing, waiting, cancelling, losing replicas."""

import select
import threading
from contextlib import closing

import msgspec
import pytest

from shoal.core.sequences.request import RequestId
from shoal.errors import CapacityError, InvalidRequest, WorkerLost
from tests.router.fakes import (
    TURN_S,
    FakeExecutor,
    ends_of,
    expected_tokens,
    finish,
    make_engine,
    make_request,
    open_engine,
    tokens_of,
)


def test_a_request_gets_its_tokens_in_order_and_one_end() -> None:
    with open_engine(FakeExecutor()) as engine:
        engine.add(make_request("a", max_tokens=5, seed=3))
        outputs = finish(engine)
    assert tokens_of(outputs, "a") == expected_tokens(3, 5)
    assert ends_of(outputs)["a"].reason == "length"
    assert ends_of(outputs)["a"].num_output_tokens == 5


def test_run_yields_everything_of_all_requests() -> None:
    with open_engine(FakeExecutor(), FakeExecutor()) as engine:
        outputs = list(engine.run(make_request(name, seed=seed) for seed, name in enumerate("abcde")))
    for seed, name in enumerate("abcde"):
        assert tokens_of(outputs, name) == expected_tokens(seed, 5)
    assert len(ends_of(outputs)) == 5


def test_requests_go_to_the_replica_with_the_least_work() -> None:
    first, second = FakeExecutor(answers_by_hand=True), FakeExecutor(answers_by_hand=True)
    with open_engine(first, second) as engine:
        engine.add(make_request("long", num_prompt=30, max_tokens=30))
        for name in "ab":
            engine.add(make_request(name, max_tokens=2))
        engine.turn(0)
        assert first.waiting[0].step.num_sequences == 1
        assert second.waiting[0].step.num_sequences == 2


def test_equal_requests_are_dealt_evenly_before_the_first_turn() -> None:
    executors = [FakeExecutor(answers_by_hand=True) for _ in range(3)]
    with open_engine(*executors) as engine:
        for name in "abcdef":
            engine.add(make_request(name))
        engine.turn(0)
        assert [executor.waiting[0].step.num_sequences for executor in executors] == [2, 2, 2]


def test_finished_work_no_longer_counts() -> None:
    first, second = FakeExecutor(), FakeExecutor()
    with open_engine(first, second) as engine:
        engine.add(make_request("a", max_tokens=20))
        finish(engine)
        engine.add(make_request("b"))
        finish(engine)
    assert first.num_submitted == 25
    assert second.num_submitted == 0


def test_a_turn_without_work_waits_until_it_is_woken() -> None:
    with open_engine(FakeExecutor()) as engine:
        woken = threading.Event()
        waker = threading.Timer(0.02, lambda: (woken.set(), engine.wake()))
        waker.start()
        assert engine.turn(60.0) == []
        assert woken.is_set()
        waker.join()


def test_a_wake_before_the_turn_is_not_lost_and_counts_once() -> None:
    with open_engine(FakeExecutor()) as engine:
        engine.wake()
        engine.wake()
        assert engine.turn(60.0) == []
        poller = select.poll()
        poller.register(engine._workers._wake_fd, select.POLLIN)
        assert poller.poll(0) == []


def test_an_answer_ends_the_wait() -> None:
    executor = FakeExecutor(answers_by_hand=True)
    with open_engine(executor) as engine:
        engine.add(make_request("a", max_tokens=1))
        engine.turn(0)
        worker = threading.Timer(0.01, executor.answer)
        worker.start()
        assert ends_of(engine.turn(60.0))["a"].reason == "length"
        worker.join()


def test_cancel_while_running_while_waiting_and_after_the_end() -> None:
    executor = FakeExecutor(answers_by_hand=True)
    with open_engine(executor) as engine:
        for name in "abcdefghij":
            engine.add(make_request(name))
        engine.turn(0)
        engine.cancel(RequestId("a"))
        engine.cancel(RequestId("j"))
        outputs = engine.turn(0)
        assert {name: end.reason for name, end in ends_of(outputs).items()} == {"a": "cancelled", "j": "cancelled"}
        while engine.has_work:
            executor.answer()
            outputs += engine.turn(TURN_S)
        engine.cancel(RequestId("a"))
        engine.cancel(RequestId("never there"))
        assert engine.turn(0) == []
    assert len(ends_of(outputs)) == 10
    assert tokens_of(outputs, "a") == []
    assert tokens_of(outputs, "b") == expected_tokens(1, 5)


def test_cancel_before_the_first_turn() -> None:
    executor = FakeExecutor()
    with open_engine(executor) as engine:
        engine.add(make_request("a"))
        engine.cancel(RequestId("a"))
        assert ends_of(finish(engine))["a"].reason == "cancelled"
    assert executor.num_submitted == 0


@pytest.mark.parametrize("at_submit", [False, True])
def test_requests_of_a_lost_replica_go_on_elsewhere(at_submit: bool) -> None:
    first, second = FakeExecutor(answers_by_hand=True), FakeExecutor()
    with open_engine(first, second) as engine:
        first.loses_at_submit = at_submit
        engine.add(make_request("a"))
        engine.add(make_request("b", seed=2))
        outputs = engine.turn(0)
        if not at_submit:
            first.answer()
            outputs += engine.turn(TURN_S)
            first.lose()
        outputs += finish(engine)
        assert tokens_of(outputs, "a") == expected_tokens(1, 5)
        assert tokens_of(outputs, "b") == expected_tokens(2, 5)
        assert {end.reason for end in ends_of(outputs).values()} == {"length"}
        assert {end.num_output_tokens for end in ends_of(outputs).values()} == {5}
        assert engine.stats().num_replicas == 1
        assert engine.stats().num_losses == 1
        assert first.num_closed == 1
        engine.add(make_request("c", seed=3))
        assert tokens_of(finish(engine), "c") == expected_tokens(3, 5)


def test_requests_that_the_lost_replica_had_not_seen_go_on_too() -> None:
    first, second = FakeExecutor(answers_by_hand=True), FakeExecutor()
    with open_engine(first, second) as engine:
        engine.add(make_request("a"))
        engine.add(make_request("b"))
        engine.turn(0)
        engine.turn(0)
        engine.add(make_request("c", max_tokens=20))
        engine.add(make_request("d"))
        first.lose()
        ends = ends_of(finish(engine))
        assert {name: end.reason for name, end in ends.items() if name in "ad"} == {"a": "length", "d": "length"}


def test_the_loss_of_the_last_replica_is_raised() -> None:
    executor = FakeExecutor(answers_by_hand=True)
    with open_engine(executor) as engine:
        engine.add(make_request("a"))
        engine.turn(0)
        executor.lose()
        with pytest.raises(WorkerLost, match="the fake worker is gone"):
            finish(engine)
        with pytest.raises(CapacityError):
            engine.add(make_request("b"))
        assert executor.num_closed == 1


def test_a_replica_that_never_answers_is_lost_after_the_deadline() -> None:
    now_s = 0.0
    executor = FakeExecutor(answers_by_hand=True)
    with closing(make_engine(executor, clock=lambda: now_s)) as engine:
        engine.add(make_request("a"))
        assert engine.turn(0) == []
        now_s = 119.0
        assert engine.turn(0) == []
        executor.answer()
        assert engine.turn(TURN_S)
        now_s = 230.0
        assert engine.turn(0) == []
        now_s = 240.0
        with pytest.raises(WorkerLost, match="no answer for"):
            engine.turn(0)
        assert executor.num_closed == 1


def test_a_replica_that_answers_nonsense_is_lost() -> None:
    executor = FakeExecutor(answers_by_hand=True)
    with open_engine(executor) as engine:
        engine.add(make_request("a"))
        engine.turn(0)
        work = executor.waiting[0]
        twice = msgspec.structs.replace(work.step, samples=work.step.samples * 2)
        executor.waiting[0] = msgspec.structs.replace(work, step=twice)
        executor.answer()
        with pytest.raises(WorkerLost, match="asked for 1 tokens"):
            engine.turn(TURN_S)
        assert executor.num_closed == 1


def test_losing_one_after_the_other() -> None:
    first, second = FakeExecutor(answers_by_hand=True), FakeExecutor(answers_by_hand=True)
    with open_engine(first, second) as engine:
        engine.add(make_request("a"))
        engine.add(make_request("b"))
        engine.turn(0)
        second.lose()
        assert engine.turn(TURN_S) == []
        assert engine.stats().num_replicas == 1
        first.lose()
        with pytest.raises(WorkerLost):
            engine.turn(TURN_S)


def test_what_can_never_be_served_is_refused_at_once() -> None:
    with open_engine(FakeExecutor()) as engine:
        with pytest.raises(InvalidRequest, match="64"):
            engine.add(make_request("long", num_prompt=64))
        with pytest.raises(InvalidRequest, match="max_tokens"):
            engine.add(make_request("none", max_tokens=0))
        assert not engine.has_work


def test_stats_count_requests_that_no_scheduler_has_seen() -> None:
    with open_engine(FakeExecutor()) as engine:
        engine.add(make_request("a"))
        assert (engine.stats().num_waiting, engine.stats().num_running) == (1, 0)
        engine.turn(0)
        assert (engine.stats().num_waiting, engine.stats().num_running) == (0, 1)
        finish(engine)
        assert (engine.stats().num_waiting, engine.stats().num_running) == (0, 0)
        assert engine.stats().kv_usage == 0.0


def test_close_closes_every_executor_and_can_be_repeated() -> None:
    executors = [FakeExecutor(), FakeExecutor()]
    engine = make_engine(*executors)
    engine.close()
    engine.close()
    assert all(executor.num_closed >= 1 for executor in executors)
