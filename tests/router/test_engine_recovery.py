"""The engine over replicas that can be started again: rebuilding, replacing, giving up, and saying so."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.errors import ModelLoadError, ShoalError, WorkerLost
from shoal.protocol.worker_messages import Generation
from shoal.router.engine import Engine
from shoal.router.executor import Executor
from tests.log_lines import replica_lines
from tests.router.fakes import (
    CONFIG,
    TURN_S,
    FakeExecutor,
    ends_of,
    expected_tokens,
    finish,
    make_request,
    tokens_of,
)

RECOVERY = RecoveryConfig(max_failures=3, crash_loop_s=0.0, backoff_s=0.01)


class FakeFactory:
    """Hands out executors that were made beforehand, in order; an error in their place is raised."""

    def __init__(self, *executors: FakeExecutor | Exception, config: SchedulerConfig = CONFIG) -> None:
        self.executors = list(executors)
        self.config = config
        self.starts: list[tuple[Generation, int | None]] = []
        self.previous: list[Executor | None] = []

    def start(
        self, generation: Generation, without: int | None, previous: Executor | None
    ) -> tuple[SchedulerConfig, FakeExecutor]:
        self.previous.append(previous)
        self.starts.append((generation, without))
        executor = self.executors.pop(0)
        if isinstance(executor, Exception):
            raise executor
        return self.config, executor


class Clock:
    """A hand clock."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001  # so that a wait until something is due ends
        return self.now_s


@contextmanager
def restarting(*replicas: tuple[FakeExecutor, FakeFactory]) -> Iterator[tuple[Engine, list[str]]]:
    """An engine and what it reports."""
    engine = Engine(
        [(CONFIG, executor) for executor, _ in replicas],
        Clock(),
        factories=[factory for _, factory in replicas],
        recovery=RECOVERY,
    )
    try:
        with replica_lines() as told:
            yield engine, told
    finally:
        engine.close()


def by_hand(**changes: bool) -> FakeExecutor:
    return FakeExecutor(answers_by_hand=True, **changes)


def test_the_only_replica_is_started_again_and_its_request_goes_on() -> None:
    first, second = by_hand(), by_hand(is_loading=True)
    factory = FakeFactory(second)
    with restarting((first, factory)) as (engine, told):
        engine.add(make_request("a", max_tokens=3))
        outputs = engine.turn(0)
        first.answer()
        outputs += engine.turn(TURN_S)
        first.lose()
        outputs += engine.turn(TURN_S)
        assert factory.starts == [(Generation(1), None)]
        assert (engine.stats().num_replicas, engine.stats().num_recovering) == (0, 1)
        assert engine.turn(0) == []
        second.finish_loading()
        outputs += engine.turn(TURN_S)
        while engine.has_work:
            second.answer()
            outputs += engine.turn(TURN_S)
        assert tokens_of(outputs, "a") == expected_tokens(1, 3)
        assert ends_of(outputs)["a"].num_output_tokens == 3
        assert engine.stats().num_recoveries == len(engine.stats().recoveries_s) == 1
        assert first.num_closed == 1
    assert [line.split(":")[0] for line in told][:1] == ["replica 0 is lost"]
    assert "has its workers again" in told[-1]


def test_others_go_on_while_a_replica_is_started_again() -> None:
    first, again, second = by_hand(), by_hand(is_loading=True), FakeExecutor()
    with restarting((first, FakeFactory(again)), (second, FakeFactory())) as (engine, _):
        engine.add(make_request("a"))
        engine.add(make_request("b", seed=2))
        engine.turn(0)
        first.lose()
        outputs = finish(engine)
        assert tokens_of(outputs, "a") == expected_tokens(1, 5)
        assert engine.stats().num_recovering == 1


def test_workers_that_cannot_be_loaded_are_tried_again_then_given_up() -> None:
    first, broken = by_hand(), by_hand(is_loading=True)
    factory = FakeFactory(broken, ModelLoadError("the file is gone"))
    with restarting((first, factory)) as (engine, told):
        engine.add(make_request("a"))
        engine.turn(0)
        first.lose()
        engine.turn(TURN_S)
        broken.lose()
        with pytest.raises(WorkerLost, match=r"3 failures in a row, the last: the file is gone"):
            finish(engine)
        assert broken.num_closed == 1
    assert len(factory.starts) == 2
    assert "is given up" in told[-1]


def test_a_system_without_room_for_workers_is_a_failed_attempt() -> None:
    first, second = by_hand(), by_hand(is_loading=True)
    factory = FakeFactory(OSError(errno.EMFILE, "Too many open files"), second)
    with restarting((first, factory)) as (engine, told):
        engine.add(make_request("a", max_tokens=1))
        engine.turn(0)
        first.lose()
        while factory.executors:
            engine.turn(TURN_S)
        second.finish_loading()
        engine.turn(TURN_S)
        second.answer()
        assert tokens_of(engine.turn(TURN_S), "a") == expected_tokens(1, 1)
    assert any("no room for new workers: Too many open files" in line for line in told)


def test_a_replacement_takes_over_when_it_is_ready_and_not_before() -> None:
    old, new = by_hand(), by_hand(is_loading=True)
    other = replace(CONFIG, num_micro_batches=2)
    results: list[ShoalError | None] = []
    with restarting((old, FakeFactory())) as (engine, told):
        engine.add(make_request("a", max_tokens=3))
        outputs = engine.turn(0)
        engine.replace_replica(0, FakeFactory(new, config=other), results.append)
        old.answer()
        outputs += engine.turn(TURN_S)
        assert old.waiting
        assert not new.waiting
        new.finish_loading()
        outputs += engine.turn(TURN_S)
        assert old.num_closed == 1
        assert results == [None]
        while engine.has_work:
            new.answer()
            outputs += engine.turn(TURN_S)
        assert tokens_of(outputs, "a") == expected_tokens(1, 3)
        assert engine.stats().num_losses == 0
        assert engine.executors == [new]
    assert told == ["replica 0 continues with new workers"]


def test_a_replacement_that_fails_leaves_everything_as_it_was() -> None:
    old, new = by_hand(), by_hand(is_loading=True)
    results: list[ShoalError | None] = []
    with restarting((old, FakeFactory())) as (engine, _):
        engine.replace_replica(0, FakeFactory(new), results.append)
        new.lose()
        engine.turn(TURN_S)
        assert isinstance(results[0], WorkerLost)
        assert new.num_closed == 1
        engine.add(make_request("a", max_tokens=1))
        engine.turn(0)
        old.answer()
        assert ends_of(engine.turn(TURN_S))["a"].reason == "length"


def test_a_replacement_saves_a_replica_whose_workers_are_lost_meanwhile() -> None:
    old, again, new = by_hand(), by_hand(is_loading=True), by_hand(is_loading=True)
    with restarting((old, FakeFactory(again))) as (engine, _):
        engine.add(make_request("a", max_tokens=1))
        engine.turn(0)
        engine.replace_replica(0, FakeFactory(new))
        old.lose()
        engine.turn(TURN_S)
        new.finish_loading()
        engine.turn(TURN_S)
        assert again.num_closed == 1
        new.answer()
        assert ends_of(engine.turn(TURN_S))["a"].reason == "length"


def test_a_second_replacement_drops_the_first() -> None:
    old, first, second = by_hand(), by_hand(is_loading=True), by_hand(is_loading=True)
    results: list[ShoalError | None] = []
    with restarting((old, FakeFactory())) as (engine, _):
        engine.replace_replica(0, FakeFactory(first), results.append)
        engine.replace_replica(0, FakeFactory(second), results.append)
        assert first.num_closed == 1
        second.finish_loading()
        engine.turn(TURN_S)
        assert [type(result) for result in results] == [WorkerLost, type(None)]


def test_a_replica_that_joins_takes_part_when_it_has_loaded() -> None:
    old, new = by_hand(), by_hand(is_loading=True)
    results: list[ShoalError | None] = []
    with restarting((old, FakeFactory())) as (engine, told):
        engine.add_replica(FakeFactory(new), results.append)
        engine.add(make_request("a", max_tokens=1))
        engine.turn(0)
        assert engine.stats().num_replicas == 1
        new.finish_loading()
        engine.turn(TURN_S)
        assert results == [None]
        assert engine.executors == [old, new]
        engine.add(make_request("b", max_tokens=1))
        engine.turn(0)
        old.answer()
        new.answer()
        outputs = engine.turn(TURN_S)
        while engine.has_work:
            outputs += engine.turn(TURN_S)
        assert {end.reason for end in ends_of(outputs).values()} == {"length"}
    assert told == ["replica 1 has joined"]


def test_a_replica_that_joins_is_started_again_when_it_is_lost() -> None:
    old, new, again = by_hand(), by_hand(is_loading=True), by_hand(is_loading=True)
    with restarting((old, FakeFactory())) as (engine, told):
        engine.add_replica(FakeFactory(new, again))
        new.finish_loading()
        engine.turn(TURN_S)
        new.lose()
        engine.turn(TURN_S)
        engine.turn(0)
        again.finish_loading()
        engine.turn(TURN_S)
        assert engine.executors == [old, again]
    assert [line.split(" is lost")[0] for line in told[:2]] == ["replica 1 has joined", "replica 1"]


def test_a_replica_that_cannot_join_is_forgotten() -> None:
    old, new = by_hand(), by_hand(is_loading=True)
    results: list[ShoalError | None] = []
    with restarting((old, FakeFactory())) as (engine, told):
        engine.add_replica(FakeFactory(new), results.append)
        new.lose()
        engine.turn(TURN_S)
        assert isinstance(results[0], WorkerLost)
        assert (new.num_closed, engine.stats().num_replicas, told) == (1, 1, [])


def test_closing_ends_workers_that_are_being_started() -> None:
    old, again, new, other = by_hand(), *(by_hand(is_loading=True) for _ in range(3))
    with restarting((old, FakeFactory(again))) as (engine, _):
        old.lose()
        engine.turn(TURN_S)
        engine.turn(0)
        engine.replace_replica(0, FakeFactory(new))
        engine.add_replica(FakeFactory(other))
    assert [executor.num_closed for executor in (old, again, new, other)] == [1, 1, 1, 1]
