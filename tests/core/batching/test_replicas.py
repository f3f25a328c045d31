"""What is believed of a replica's speed, and which replica a batch goes to."""

import pytest

from shoal.core.batching.deadlines import Deadlines
from shoal.core.batching.events import SubmitBatch
from shoal.core.batching.replicas import Replica, choose_replica, drain_s, share_rows
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.replica_recovery import ReplicaRecovery
from shoal.core.speed.batch_times import BatchTimes
from shoal.core.speed.work_size import WorkSize


def make_replica(index: int = 0, *, row_s: float | None = None, num_stages: int = 1) -> Replica:
    """Idle; measured at time 0 where a speed is given."""
    replica = Replica(num_stages, ReplicaRecovery(index, RecoveryConfig(), 0.0))
    if row_s is not None:
        replica.times.observe(1, row_s, 0.0)
    return replica


def submit(replica: Replica, rows: int, now_s: float = 0.0) -> None:
    batch_id = len(replica.in_flight)
    batch = SubmitBatch(replica=replica.index, batch_id=batch_id, parts=(), num_rows=rows)
    replica.submit(batch, WorkSize(rows), now_s)


def complete(replica: Replica, batch_id: int, now_s: float) -> None:
    assert replica.complete(replica.in_flight[batch_id], (), now_s) == []


def choose(*replicas: Replica, rows: int = 1, waiting_rows: int = 1, now_s: float = 0.0, is_full: bool = False):
    choice = choose_replica(replicas, rows=rows, waiting_rows=waiting_rows, is_full=is_full, now_s=now_s)
    return None if choice.replica is None else choice.replica.index, choice.hold_until_s


def test_times_of_one_size_are_proportional() -> None:
    times = BatchTimes()
    assert times.predict(8) == 0.0
    times.observe(4, 2.0, 1.0)
    times.observe(4, 2.0, 2.0)
    assert times.predict(8) == pytest.approx(4.0)
    assert times.observed_s == 2.0


def test_the_rate_is_that_of_the_latest_batches() -> None:
    times = BatchTimes()
    assert times.rows_per_s == 0.0
    times.observe(4, 2.0, 1.0)
    assert times.rows_per_s == pytest.approx(2.0)
    for _ in range(60):
        times.observe(10, 1.0, 2.0)
    assert times.rows_per_s == pytest.approx(10.0, rel=0.01)


def test_times_of_several_sizes_tell_what_a_batch_and_what_a_row_costs() -> None:
    times = BatchTimes()
    for rows in (1, 8, 3, 32):
        times.observe(rows, 0.5 + 0.1 * rows, 0.0)
    assert times.predict(20) == pytest.approx(2.5)
    assert times.predict(20, num_batches=2) == pytest.approx(3.0)


@pytest.mark.parametrize(("small_s", "large_s"), [(1.0, 0.1), (0.1, 10.0)])
def test_times_that_make_no_sense_never_give_negative_costs(small_s: float, large_s: float) -> None:
    times = BatchTimes()
    times.observe(1, small_s, 0.0)
    times.observe(8, large_s, 0.0)
    assert times.predict(0, num_batches=1) >= 0
    assert times.predict(8) >= times.predict(1) > 0


def test_a_slow_first_run_is_forgotten() -> None:
    times = BatchTimes()
    times.observe(1, 10.0, 0.0)
    for _ in range(60):
        times.observe(1, 0.01, 0.0)
    assert times.predict(1) == pytest.approx(0.01, rel=0.5)


def test_a_batchs_time_starts_when_the_one_before_it_is_done() -> None:
    replica = make_replica(num_stages=2)
    submit(replica, 1, 0.0)
    submit(replica, 1, 1.0)
    complete(replica, 0, 4.0)
    assert replica.times.predict(1) == pytest.approx(4.0)
    complete(replica, 1, 6.0)
    assert replica.times.predict(1) == pytest.approx((0.9 * 4 + 2) / 1.9)
    assert not replica.in_flight


def test_what_is_overdue_is_expected_to_take_as_long_again() -> None:
    replica = make_replica(row_s=1.0)
    assert replica.remaining_s(3.0) == 0.0
    submit(replica, 2, 10.0)
    submit(replica, 3, 10.0)
    assert replica.remaining_s(10.0) == pytest.approx(5.0)
    assert replica.remaining_s(11.5) == pytest.approx(3.5)
    assert replica.remaining_s(16.0) == pytest.approx(4.0 + 3.0)


def test_the_faster_of_two_idle_replicas_is_taken() -> None:
    assert choose(make_replica(0, row_s=2.0), make_replica(1, row_s=1.0)) == (1, None)
    assert choose(make_replica(0, row_s=1.0), make_replica(1, row_s=1.0)) == (0, None)


def test_an_idle_replica_is_preferred_to_the_extra_place_of_a_busy_one() -> None:
    busy, idle = make_replica(0), make_replica(1)
    submit(busy, 1)
    assert choose(busy, idle, is_full=True) == (1, None)


def test_a_lost_replica_is_passed_over() -> None:
    lost, other = make_replica(0, row_s=0.1), make_replica(1, row_s=1.0)
    lost.life.lose("its worker died", None, 0.0)
    assert choose(lost, other) == (1, None)
    assert choose(lost) == (None, None)


def test_a_much_faster_replica_is_waited_for_until_it_is_late() -> None:
    fast, slow = make_replica(0, row_s=1.0), make_replica(1, row_s=8.0)
    submit(fast, 1)
    assert choose(fast, slow, now_s=0.5) == (None, 0.0 + 1.0 + 7.0)
    assert choose(fast, slow, now_s=7.9) == (None, 8.0)
    assert choose(fast, slow, now_s=8.0) == (1, None)


def test_a_slow_replica_helps_when_much_waits() -> None:
    fast, slow = make_replica(0, row_s=1.0), make_replica(1, row_s=8.0)
    submit(fast, 1)
    assert choose(fast, slow, waiting_rows=6)[0] is None
    assert choose(fast, slow, waiting_rows=7)[0] == 1


def test_nobody_stays_idle_on_an_old_measurement() -> None:
    fast, slow = make_replica(0, row_s=1.0), make_replica(1, row_s=1000.0)
    assert choose(fast, slow, now_s=11.0) == (0, None)
    submit(fast, 1)
    assert choose(fast, slow, now_s=9.9) == (None, 10.0)
    assert choose(fast, slow, now_s=10.0) == (1, None)


def test_shares_follow_the_speeds_and_then_the_stages() -> None:
    fast, slow = make_replica(0, row_s=1.0, num_stages=2), make_replica(1, row_s=3.0)
    assert share_rows([fast, slow], fast, waiting_rows=40) == 15
    assert share_rows([fast, slow], slow, waiting_rows=40) == 10
    submit(slow, 8)
    assert share_rows([fast, slow], fast, waiting_rows=32) == 15
    slow.life.lose("its worker died", None, 0.0)
    assert share_rows([fast, slow], fast, waiting_rows=32) == 16


def test_unmeasured_stages_share_evenly() -> None:
    replicas = [make_replica(0, num_stages=2), make_replica(1, row_s=5.0)]
    assert [share_rows(replicas, replica, waiting_rows=30) for replica in replicas] == [10, 10]


def test_what_waits_drains_through_all_replicas_once_they_are_free() -> None:
    first, second = make_replica(0, row_s=1.0), make_replica(1, row_s=1.0)
    assert drain_s([first, second], rows=10, num_batches=1, now_s=0.0) == pytest.approx(5.0)
    submit(second, 4)
    assert drain_s([first, second], rows=10, num_batches=1, now_s=0.0) == pytest.approx(7.0)
    assert drain_s([first, second], rows=2, num_batches=1, now_s=0.0) == pytest.approx(2.0)
    second.life.lose("its worker died", None, 0.0)
    assert drain_s([first, second], rows=10, num_batches=1, now_s=0.0) == pytest.approx(10.0)
    assert drain_s([first, make_replica(1)], rows=10, num_batches=1, now_s=0.0) is None


def test_deadlines_of_what_no_longer_waits_are_not_kept() -> None:
    waiting: set[str] = set()
    deadlines = Deadlines(lambda _, name: name in waiting)
    for index in range(10_000):
        waiting = {str(index)}
        deadlines.add(float(index), index, str(index))
    assert deadlines.num_entries < 200
    assert deadlines.first_s() == 9999.0
    assert deadlines.pop_expired(9998.0) is None
    assert deadlines.pop_expired(9999.0) == "9999"
    assert deadlines.first_s() is None
