"""How long workers may be silent."""

from array import array

import pytest

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.patience import Patience
from shoal.protocol.messages import Generation, Step, StepId, StepResult

CONFIG = RecoveryConfig(worker_timeout_s=2.0)


def step(step_id: int, *, prompt: int = 0, outputs: int = 0, context: int = 0) -> Step:
    """One sequence with prompt rows, or as many as there are output rows, each after so much context."""
    rows = [prompt] if prompt else [1] * outputs
    starts = array("i", [sum(rows[:count]) for count in range(len(rows) + 1)])
    return Step(
        step_id=StepId(step_id),
        generation=Generation(0),
        token_ids=bytes(4 * sum(rows)),
        positions=bytes(4 * sum(rows)),
        query_starts=starts.tobytes(),
        context_lens=array("i", [context + count for count in rows]).tobytes(),
        block_tables=bytes(4 * len(rows)),
        samples=(),
    )


def answer(patience: Patience, sent: Step, seconds: float, now_s: float = 0.0) -> None:
    patience.note_sent(sent, now_s)
    result = StepResult(step_id=sent.step_id, generation=sent.generation, tokens=(), compute_s=(seconds,))
    patience.note_answered(result, now_s)


def allowance_s(patience: Patience, sent: Step, now_s: float = 0.0) -> float:
    patience.note_sent(sent, now_s)
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
    patience.note_sent(step(1, outputs=1), 10.0)
    patience.note_sent(step(2, outputs=1), 11.0)
    assert patience.overdue_s() == 12.0
    patience.note_answered(StepResult(step_id=StepId(1), generation=Generation(0), tokens=()), 11.5)
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
