"""When a lost replica is started again, and when it is given up."""

from dataclasses import replace

import pytest

from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.restart import FailureHistory, Loss, decide_restart
from shoal.errors import ConfigError

CONFIG = RecoveryConfig(backoff_s=0.5, max_backoff_s=3.0, max_failures=6, crash_loop_s=8.0, replan_after=3)
WELL = Loss(was_well=True, was_loading=False, at_s=0.0)
FIRST_STEP = Loss(was_well=False, was_loading=False, at_s=0.0)
LOADING = Loss(was_well=False, was_loading=True, at_s=0.0, worker=1)


def after(*losses: Loss) -> FailureHistory:
    """Two seconds apart."""
    history = FailureHistory()
    for number, loss in enumerate(losses):
        history = history.after(replace(loss, at_s=2.0 * number))
    return history


def delays(*losses: Loss) -> list[float | None]:
    """Before each restart; None: given up."""
    restarts = [decide_restart(CONFIG, after(*losses[: count + 1])) for count in range(len(losses))]
    return [None if restart is None else restart.delay_s for restart in restarts]


def test_workers_that_did_their_work_are_started_again_at_once_however_often():
    assert delays(*[WELL] * 20) == [0.0] * 20


def test_a_crash_loop_waits_longer_and_longer_and_ends():
    assert delays(WELL, *[FIRST_STEP] * 5) == [0.0, 0.5, 1.0, 2.0, 3.0, None]
    assert delays(WELL, *[LOADING] * 5) == [0.0, 0.5, 1.0, 2.0, 3.0, None]


def test_many_failures_in_a_short_time_are_no_crash_loop_yet():
    hasty = RecoveryConfig(max_failures=2, crash_loop_s=8.1, backoff_s=0.5)
    assert decide_restart(hasty, after(*[FIRST_STEP] * 5)) is not None
    assert decide_restart(hasty, after(*[FIRST_STEP] * 6)) is None
    assert decide_restart(hasty, after(*[FIRST_STEP] * 6, WELL, FIRST_STEP)) is not None


def test_having_worked_ends_the_row():
    assert delays(LOADING, LOADING, LOADING, WELL, LOADING) == [0.0, 0.5, 1.0, 0.0, 0.5]


def test_a_worker_that_cannot_be_loaded_is_done_without():
    def left_out(*losses: Loss) -> int | None:
        restart = decide_restart(CONFIG, after(*losses))
        assert restart is not None
        return restart.without

    assert left_out(LOADING, LOADING) is None
    assert left_out(WELL, LOADING, LOADING, LOADING) == 1
    assert left_out(LOADING, LOADING, Loss(was_well=False, was_loading=True, at_s=0.0, worker=0), LOADING) is None
    assert left_out(LOADING, LOADING, FIRST_STEP, LOADING) is None
    assert left_out(*[Loss(was_well=False, was_loading=True, at_s=0.0, worker=None)] * 4) is None


def test_a_worker_whose_machine_takes_no_connections_is_done_without_at_once():
    gone = replace(LOADING, is_unreachable=True)
    restart = decide_restart(CONFIG, after(WELL, gone))
    assert restart is not None
    assert (restart.without, restart.delay_s) == (1, 0.0)
    assert delays(WELL, *[gone] * 3) == [0.0, 0.0, 1.0, 2.0], "where it cannot be done without, it is waited for"
    back = decide_restart(CONFIG, after(WELL, gone, LOADING))
    assert back is not None
    assert back.without is None


def test_without_restarts_the_first_loss_is_the_last():
    assert decide_restart(RecoveryConfig(max_failures=1, crash_loop_s=0.0), after(WELL)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"worker_timeout_s": 0.0},
        {"backoff_s": 0.0},
        {"max_failures": 0},
        {"crash_loop_s": -1.0},
        {"max_backoff_s": 0.1},
    ],
    ids=repr,
)
def test_values_out_of_range(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        RecoveryConfig(**changes)
