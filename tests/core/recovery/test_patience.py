"""How long workers may be silent."""

from typing import NamedTuple

import pytest

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.patience import Patience
from shoal.core.speed.step_times import StepShape
from shoal.core.speed.work_size import WorkSize

CONFIG = RecoveryConfig(worker_timeout_s=2.0)


class Sent(NamedTuple):
    """A step, as patience knows it."""

    step_id: int
    size: WorkSize


def step(step_id: int, *, prompt: int = 0, outputs: int = 0, context: int = 0) -> Sent:
    """One sequence with prompt rows, or as many as there are output rows, each after so much context."""
    rows = [prompt] if prompt else [1] * outputs
    return Sent(step_id, WorkSize.of_step(StepShape.of((count, context + count) for count in rows)))


def send(patience: Patience, sent: Sent, now_s: float = 0.0) -> None:
    patience.note_sent(sent.step_id, sent.size, now_s)


def answer(patience: Patience, sent: Sent, seconds: float, now_s: float = 0.0) -> None:
    send(patience, sent, now_s)
    patience.note_answered(sent.step_id, (seconds,), now_s)


def allowance_s(patience: Patience, sent: Sent, now_s: float = 0.0) -> float:
    send(patience, sent, now_s)
    overdue_s = patience.overdue_s()
    assert overdue_s is not None
    return overdue_s - now_s


def test_workers_that_owe_nothing_may_be_silent_for_ever():
    patience = Patience(CONFIG)
    assert patience.overdue_s() is None
    answer(patience, step(0, outputs=1), 0.01)
    assert patience.overdue_s() is None


def test_short_steps_are_waited_for_as_long_as_was_asked_for():
    patience = Patience(CONFIG)
    answer(patience, step(0, outputs=8), 0.02)
    assert allowance_s(patience, step(1, outputs=8)) == 2.0


def test_time_counts_from_the_last_sign():
    patience = Patience(CONFIG)
    answer(patience, step(0, outputs=1), 0.01)
    send(patience, step(1, outputs=1), 10.0)
    send(patience, step(2, outputs=1), 11.0)
    assert patience.overdue_s() == 12.0
    patience.note_answered(1, (), 11.5)
    assert patience.overdue_s() == 13.5
    assert patience.silence_s(12.0) == 0.5


def test_a_long_prompt_is_waited_for_as_long_as_its_rows_take():
    patience = Patience(CONFIG)
    answer(patience, step(0, prompt=100), 1.0)
    assert 4 * 10.0 <= allowance_s(patience, step(1, prompt=1000)) <= 1.5 * 4 * 10.0


def test_a_first_prompt_is_judged_by_the_outputs_before_it():
    patience = Patience(CONFIG)
    for step_id in range(5):
        answer(patience, step(step_id, outputs=1), 0.02)
    assert allowance_s(patience, step(9, prompt=500)) >= 4 * 500 * 0.02


def test_before_any_step_a_single_row_counts_and_without_one_there_is_much_time():
    patience = Patience(CONFIG)
    patience.start(row_s=0.02)
    assert 4 * 10.0 <= allowance_s(patience, step(0, prompt=500)) <= 1.5 * 4 * 10.0
    assert allowance_s(Patience(CONFIG), step(0, prompt=500)) >= 60.0


def test_long_contexts_take_longer():
    patience = Patience(CONFIG)
    answer(patience, step(0, prompt=512), 1.0)
    assert allowance_s(patience, step(1, prompt=512, context=30_000)) > 4 * 10.0


def test_silence_that_may_have_been_a_mistake_doubles_patience_for_a_while():
    patience = Patience(CONFIG)
    answer(patience, step(0, prompt=100), 1.0)
    patience.note_mistrust(10.0)
    patience.start(0.0)
    assert allowance_s(patience, step(1, prompt=100), now_s=20.0) == pytest.approx(8.0, rel=0.1)
    patience.start(0.0)
    assert allowance_s(patience, step(2, prompt=100), now_s=1000.0) == pytest.approx(4.0, rel=0.1)


def batch_allowance_s(patience: Patience, rows: int, row_cost: int) -> float:
    return patience.allowance_s(WorkSize(rows, row_cost), 0.0)


def test_batches_are_judged_by_their_rows_and_what_a_row_holds():
    patience = Patience(CONFIG, row_cost=100)
    patience.note_sent(0, WorkSize(4, 100), 0.0)
    patience.note_answered(0, (1.0, 3.0), 0.0)
    assert batch_allowance_s(patience, 1, 100) == pytest.approx(4.0)
    assert batch_allowance_s(patience, 8, 100) == pytest.approx(32.0)
    assert batch_allowance_s(patience, 4, 50) == pytest.approx(8.0)


def test_rows_that_hold_more_than_any_before_may_take_as_much_more_again():
    """Attention over a text takes the square of its length."""
    patience = Patience(CONFIG, row_cost=100)
    patience.start(row_s=0.01)
    assert batch_allowance_s(patience, 10, 1000) == pytest.approx(4 * 10 * 0.01 * 10**2)
    patience.note_sent(0, WorkSize(10, 100), 0.0)
    patience.note_answered(0, (1.0,), 0.0)
    assert batch_allowance_s(patience, 10, 1000) == pytest.approx(4 * 10.0 * 10)


def test_work_that_takes_what_its_data_say_has_long_and_is_given_up_before_its_workers_are():
    patience = Patience(RecoveryConfig(worker_timeout_s=2.0, runaway_s=300.0))
    patience.start(row_s=0.01)
    size = WorkSize(1)
    assert patience.allowance_s(size, 0.0) == 300.0
    limit_s = patience.limit_s(size, 0.0)
    assert limit_s is not None
    assert limit_s < 300.0
    assert Patience(CONFIG).limit_s(size, 0.0) is None


def test_what_a_piece_of_work_was_given_is_not_taken_from_it():
    """A worker may have been told when to give it up."""
    patience = Patience(CONFIG)
    patience.note_sent(0, WorkSize(1), 0.0)
    patience.note_sent(1, WorkSize(1), 0.0)
    patience.note_answered(0, (0.01,), 0.5)
    overdue_s = patience.overdue_s()
    assert overdue_s is not None
    assert overdue_s > 60.0
    patience.note_answered(1, (0.01,), 1.0)
    patience.note_sent(2, WorkSize(1), 1.0)
    assert patience.overdue_s() == 3.0
