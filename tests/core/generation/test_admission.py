"""When a call is refused because too much waits, and when it should come again."""

from __future__ import annotations

import pytest

from shoal.core.generation.admission import AdmissionConfig, EndRate, reason_to_refuse
from shoal.errors import ConfigError, QueueFull


def refusal(num_new: int, num_unfinished: int, *, max_queue: int = 4, max_running: int = 8) -> QueueFull | None:
    return reason_to_refuse(
        AdmissionConfig(max_queue=max_queue),
        num_new=num_new,
        num_unfinished=num_unfinished,
        max_running=max_running,
        rate=EndRate(),
        now_s=0.0,
    )


def test_what_runs_does_not_count_as_waiting() -> None:
    assert refusal(1, 0) is None
    assert refusal(1, 11) is None
    assert refusal(1, 12) is not None
    assert refusal(3, 10) is not None
    assert refusal(2, 10) is None


def test_a_call_that_never_fits_is_taken_while_nothing_waits() -> None:
    assert refusal(100, 8) is None
    assert refusal(100, 9) is not None


def test_without_any_worker_everything_waits() -> None:
    assert refusal(1, 0, max_running=0) is None
    assert refusal(1, 4, max_running=0) is not None


def test_a_refusal_names_the_numbers() -> None:
    error = refusal(3, 12)
    assert error is not None
    assert "4 requests are already waiting, and 3 more do not fit" in str(error)


def test_a_queue_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_queue"):
        AdmissionConfig(max_queue=0)


def test_nothing_measured_is_a_second() -> None:
    rate = EndRate()
    rate.note_start(0.0)
    assert rate.expected_s(50, 7.0) == 1.0


def test_the_rate_is_that_of_the_ends() -> None:
    rate = EndRate()
    rate.note_start(100.0)
    for index in range(1, 5):
        rate.note_end(100.0 + 0.5 * index)
    assert rate.expected_s(1, 102.0) == pytest.approx(0.5)
    assert rate.expected_s(6, 102.0) == pytest.approx(3.0)


def test_ends_that_come_together_count_one_by_one() -> None:
    rate = EndRate()
    rate.note_start(0.0)
    for now_s in (2.0, 2.0, 2.0, 2.0):
        rate.note_end(now_s)
    assert rate.expected_s(4, 2.0) == pytest.approx(2.0, rel=0.1)


def test_idle_time_does_not_slow_the_rate() -> None:
    rate = EndRate()
    rate.note_start(0.0)
    rate.note_end(1.0)
    rate.note_start(5000.0)
    rate.note_end(5001.0)
    assert rate.expected_s(1, 5001.0) == pytest.approx(1.0)


def test_a_pause_is_expected_to_last_as_long_again() -> None:
    rate = EndRate()
    rate.note_start(0.0)
    rate.note_end(1.0)
    assert rate.expected_s(2, 5.0) == pytest.approx(2.0 + 3.0)
