"""When batches start, what they hold, and how requests end."""

import pytest

from shoal.core.batching.config import BatchingConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    RequestAborted,
    WorkerLost,
)
from tests.core.batching.driver import FOUR_ROWS, NO_ROWS, BatchingDriver, names


def test_an_idle_replica_starts_at_once() -> None:
    driver = BatchingDriver(batch_delay_s=10.0)
    driver.add("a")
    assert [names(batch) for batch in driver.tick()] == ["a"]
    driver.answer()
    assert driver.completed == ["a"]
    assert driver.scheduler.num_requests == 0


def test_what_comes_while_it_works_goes_together() -> None:
    driver = BatchingDriver()
    driver.add("a")
    driver.tick()
    for name in "bcd":
        driver.add(name)
        assert driver.tick() == []
    [batch] = driver.answer()
    assert names(batch) == "bcd"
    assert batch.num_rows == 3


def test_a_full_batch_goes_ahead_so_that_the_replica_never_waits() -> None:
    driver = BatchingDriver(max_batch=2)
    driver.add("a")
    driver.tick()
    driver.add("b")
    assert driver.tick() == []
    driver.add("c")
    assert [names(batch) for batch in driver.tick()] == ["bc"]
    for name in "def":
        driver.add(name)
    assert driver.tick() == []
    assert [names(batch) for batch in driver.answer()] == ["de"]


def test_rows_are_capped_and_the_oldest_go_first() -> None:
    driver = BatchingDriver(max_batch=3)
    for name in "abcdefg":
        driver.add(name)
    assert [names(batch) for batch in driver.tick()] == ["abc", "def"]
    assert driver.answer() == []
    assert [names(batch) for batch in driver.answer()] == ["g"]


def test_only_equal_signatures_share_a_batch() -> None:
    driver = BatchingDriver()
    for name, signature in zip("abcd", "xyxy", strict=True):
        driver.add(name, signature=signature)
    assert [names(batch) for batch in driver.tick()] == ["ac"]
    driver.add("e", signature="x")
    assert [names(batch) for batch in driver.answer()] == ["bd"]
    assert [names(batch) for batch in driver.answer()] == ["e"]


def test_a_pipeline_has_a_batch_a_stage_and_rows_are_dealt_evenly() -> None:
    driver = BatchingDriver(2)
    driver.add("a")
    driver.tick()
    for name in "bcdefgh":
        driver.add(name)
    assert [names(batch) for batch in driver.tick()] == ["bcde"]
    assert [names(batch) for batch in driver.answer()] == ["fgh"]


def test_replicas_that_are_idle_share_what_waits() -> None:
    driver = BatchingDriver(1, 1)
    for name in "abcdef":
        driver.add(name)
    assert [(batch.replica, names(batch)) for batch in driver.tick()] == [(0, "abc"), (1, "def")]


def test_unequal_replicas_get_unequal_shares() -> None:
    driver = BatchingDriver(1, 1)
    driver.set_speed(1.0, replica=0)
    driver.set_speed(3.0, replica=1)
    for name in "abcdefgh":
        driver.add(name)
    assert [(batch.replica, names(batch)) for batch in driver.tick()] == [(0, "abcdef"), (1, "gh")]


def test_a_delay_holds_only_batches_that_are_not_full_and_only_while_the_replica_works() -> None:
    driver = BatchingDriver(2, max_batch=4, batch_delay_s=1.0)
    driver.add("a")
    assert len(driver.tick()) == 1
    driver.add("b")
    assert driver.tick(0.5) == []
    assert driver.wake_s == 1.0
    assert [names(batch) for batch in driver.tick(1.0)] == ["b"]
    assert driver.wake_s is None


def test_a_full_batch_is_not_delayed() -> None:
    driver = BatchingDriver(2, max_batch=2, batch_delay_s=1.0)
    driver.add("a")
    driver.tick()
    driver.add("b")
    driver.add("c")
    assert [names(batch) for batch in driver.tick()] == ["bc"]


def test_a_large_request_is_cut_and_ends_once() -> None:
    driver = BatchingDriver(max_batch=4)
    driver.add("a", rows=10)
    batches = driver.tick()
    assert driver.answer() == []
    batches += driver.answer()
    assert [(part.first_row, part.num_rows) for batch in batches for part in batch.parts] == [(0, 4), (4, 4), (8, 2)]
    assert driver.completed == []
    driver.answer()
    assert driver.completed == ["a"]


def test_a_request_is_spread_over_idle_replicas_but_not_in_crumbs() -> None:
    driver = BatchingDriver(1, 1, min_cut_rows=8)
    driver.add("a", rows=16)
    assert [(batch.replica, batch.num_rows) for batch in driver.tick()] == [(0, 8), (1, 8)]
    driver = BatchingDriver(1, 1, min_cut_rows=8)
    driver.add("a", rows=15)
    assert [(batch.replica, batch.num_rows) for batch in driver.tick()] == [(0, 15)]


def test_without_rows_a_batch_is_a_request() -> None:
    driver = BatchingDriver(axes=NO_ROWS)
    for name in "abc":
        driver.add(name)
    assert [names(batch) for batch in driver.tick()] == ["a", "b"]
    assert [names(batch) for batch in driver.answer()] == ["c"]


def test_with_fixed_rows_batches_are_filled_and_not_spread() -> None:
    driver = BatchingDriver(1, 1, axes=FOUR_ROWS, max_batch=32)
    driver.add("a", rows=3)
    driver.add("b", rows=1)
    driver.add("c", rows=6)
    batches = driver.tick()
    assert [(names(batch), batch.num_rows) for batch in batches] == [("ab", 4), ("c", 4)]
    assert [(names(batch), batch.num_rows) for batch in driver.answer()] == [("c", 2)]


def test_fixed_rows_are_not_spread_since_an_empty_place_costs_as_much_as_a_row() -> None:
    driver = BatchingDriver(1, 1, axes=FOUR_ROWS)
    for name in "abcd":
        driver.add(name)
    assert [(batch.replica, names(batch)) for batch in driver.tick()] == [(0, "abcd")]


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    driver = BatchingDriver(max_batch=2, max_queue_rows=4)
    driver.set_speed(0.5)
    driver.add("a")
    driver.tick()
    driver.add("b", rows=4)
    driver.add("c", rows=2)
    error = driver.failed["c"]
    assert isinstance(error, QueueFull)
    assert error.retry_after_s == pytest.approx(0.5 + 2 * 0.5)
    assert driver.scheduler.waiting_rows == 4


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    driver = BatchingDriver(max_queue_rows=4, max_batch=8)
    driver.add("a", rows=20)
    driver.add("b")
    assert isinstance(driver.failed["b"], QueueFull)
    assert "a" not in driver.failed


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    driver = BatchingDriver()
    driver.set_speed(1.0)
    driver.add("a", rows=8)
    driver.tick()
    driver.add("b", deadline_s=8.5)
    error = driver.failed["b"]
    assert isinstance(error, DeadlineExceeded)
    assert error.retry_after_s == pytest.approx(0.5)
    driver.add("c", deadline_s=9.5)
    assert "c" not in driver.failed


def test_an_idle_replica_tries_whatever_the_estimate_says() -> None:
    driver = BatchingDriver()
    driver.set_speed(100.0)
    driver.add("a", deadline_s=1.0)
    assert [names(batch) for batch in driver.tick()] == ["a"]
    driver.answer(0.5)
    assert driver.completed == ["a"]


def test_requests_that_cannot_run_together_take_a_batch_each_in_the_estimate() -> None:
    driver = BatchingDriver(max_batch=8)
    for rows, seconds in ((1, 2.0), (2, 2.0)):
        driver.scheduler.replicas[0].times.observe(rows, seconds, 0.0)
    driver.add("a", signature="x")
    driver.tick()
    driver.add("b", signature="y")
    driver.add("c", signature="z", deadline_s=5.0)
    assert isinstance(driver.failed["c"], DeadlineExceeded)


def test_nothing_is_refused_for_its_deadline_before_anything_was_measured() -> None:
    driver = BatchingDriver()
    driver.add("a", rows=30)
    driver.tick()
    driver.add("b", deadline_s=0.001)
    assert driver.failed == {}


def test_a_deadline_in_the_past_is_refused_even_by_an_idle_replica() -> None:
    driver = BatchingDriver()
    driver.add("a", deadline_s=0.0)
    assert isinstance(driver.failed["a"], DeadlineExceeded)


def test_a_request_of_very_many_rows_is_refused_for_good() -> None:
    driver = BatchingDriver(max_batch=8, max_queue_rows=10)
    driver.add("a", rows=161)
    driver.add("b", rows=160)
    assert isinstance(driver.failed["a"], InvalidRequest)
    assert "b" not in driver.failed


def test_what_expires_in_the_queue_ends_there_and_what_is_in_flight_may_finish() -> None:
    driver = BatchingDriver()
    driver.add("a", deadline_s=1.0)
    driver.tick()
    driver.add("b", deadline_s=2.0)
    driver.add("c")
    assert driver.wake_s == 2.0
    driver.tick(2.0)
    assert set(driver.failed) == {"b"}
    assert isinstance(driver.failed["b"], DeadlineExceeded)
    assert [names(batch) for batch in driver.answer()] == ["c"]
    assert driver.completed == ["a"]


def test_a_cancelled_request_leaves_the_queue_or_is_ignored_when_it_comes() -> None:
    driver = BatchingDriver()
    driver.add("a")
    driver.tick()
    driver.add("b")
    driver.add("c")
    for name in "abx":
        driver.cancel(name)
    assert {name: type(error) for name, error in driver.failed.items()} == dict.fromkeys("ab", RequestAborted)
    assert [names(batch) for batch in driver.answer()] == ["c"]
    driver.answer()
    assert driver.completed == ["c"]


def test_an_id_may_be_used_again_while_its_cancelled_rows_are_still_out() -> None:
    driver = BatchingDriver()
    driver.add("a")
    driver.tick()
    driver.cancel("a")
    driver.add("a")
    [again] = driver.answer()
    assert driver.completed == []
    assert names(again) == "a"
    driver.answer()
    assert driver.completed == ["a"]


def test_a_lost_replicas_rows_run_again_ahead_of_later_ones() -> None:
    driver = BatchingDriver(1, 1)
    for name in "ab":
        driver.add(name)
    driver.tick()
    for name in "cd":
        driver.add(name)
    driver.tick()
    assert driver.lose(0) == []
    assert [(batch.replica, names(batch)) for batch in driver.answer(replica=1)] == [(1, "acd")]
    driver.answer(replica=1)
    assert driver.completed == ["b", "a", "c", "d"]


def test_the_request_that_breaks_replicas_is_the_only_one_to_fail() -> None:
    driver = BatchingDriver(1, 1, 1, 1, axes=FOUR_ROWS)
    driver.add("a")
    driver.add("b")
    assert [(batch.replica, names(batch)) for batch in driver.tick()] == [(0, "ab")]
    assert [(batch.replica, names(batch)) for batch in driver.lose(0)] == [(1, "ab")]
    assert [(batch.replica, names(batch)) for batch in driver.lose(1)] == [(2, "a"), (3, "b")]
    assert driver.lose(2) == []
    driver.answer(replica=3)
    assert driver.completed == ["b"]
    assert isinstance(driver.failed["a"], WorkerLost)
    assert "replicas were lost" in str(driver.failed["a"])


def test_the_last_replica_takes_every_request_with_it() -> None:
    driver = BatchingDriver(1)
    driver.add("a")
    driver.tick()
    driver.add("b")
    driver.lose(0)
    assert {name: str(error) for name, error in driver.failed.items()} == dict.fromkeys("ab", "worker 0 died")
    driver.add("c")
    assert isinstance(driver.failed["c"], WorkerLost)


def test_of_a_batch_that_cannot_run_only_the_guilty_request_fails() -> None:
    driver = BatchingDriver()
    for name in "abc":
        driver.add(name)
    driver.tick()
    driver.add("d")
    assert [names(batch) for batch in driver.refuse()] == ["a", "b"]
    assert [names(batch) for batch in driver.answer()] == ["c"]
    assert driver.refuse() == []
    while driver.in_flight:
        driver.answer()
    assert sorted(driver.completed) == ["a", "c", "d"]
    assert isinstance(driver.failed["b"], InvalidRequest)
    assert str(driver.failed["b"]) == "index out of range"


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch": 0},
        {"max_queue_rows": 0},
        {"min_cut_rows": 0},
        {"batch_delay_s": -1.0},
        {"batch_delay_s": float("nan")},
    ],
)
def test_a_limit_out_of_range_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BatchingConfig(**wrong)


def test_a_request_that_crashes_the_workers_it_has_alone_is_refused_at_once() -> None:
    driver = BatchingDriver(1, 1, recovery=RecoveryConfig())
    driver.add("poison")
    driver.tick()
    driver.lose(0, is_crash=True)
    assert isinstance(driver.failed["poison"], InvalidRequest)
    assert "worker 0 died" in str(driver.failed["poison"])
    driver.add("a")
    assert [batch.replica for batch in driver.tick()] == [1]


def test_of_those_in_a_crash_each_runs_alone_and_only_the_guilty_one_fails() -> None:
    driver = BatchingDriver(1, 1, 1, axes=FOUR_ROWS, recovery=RecoveryConfig())
    for name in ("a", "poison", "c"):
        driver.add(name)
    assert [names(batch) for batch in driver.tick()] == ["apoisonc"]
    assert [(batch.replica, names(batch)) for batch in driver.lose(0, is_crash=True)] == [(1, "a"), (2, "poison")]
    driver.lose(2, is_crash=True)
    driver.answer(replica=1)
    driver.answer(replica=1)
    assert driver.completed == ["a", "c"]
    assert list(driver.failed) == ["poison"]


def test_poison_is_no_failure_of_the_workers_however_often_it_comes() -> None:
    driver = BatchingDriver(1, recovery=RecoveryConfig(max_failures=2, crash_loop_s=0.0))
    for number in range(5):
        driver.add(f"poison {number}")
        driver.tick()
        driver.lose(0, is_crash=True)
        driver.be_ready(0)
    driver.add("a")
    driver.tick()
    driver.answer()
    assert driver.completed == ["a"]
    assert len(driver.failed) == 5


def test_the_rows_of_one_request_on_a_crashed_replica_are_its_own_fault_only() -> None:
    driver = BatchingDriver(2, max_batch=2, recovery=RecoveryConfig())
    driver.add("a", rows=4)
    assert [names(batch) for batch in driver.tick()] == ["a", "a"]
    driver.lose(0, is_crash=True)
    assert list(driver.failed) == ["a"]
