"""What cores and processes have computed."""

import os
from pathlib import Path

import pytest

from shoal.measure.processor_use import busy_s, processor_use

STAT = """cpu  900 0 0 900 0 0 0 0 0 0
cpu0 100 20 30 5000 40 5 6 7 90 0
cpu1 200 0 0 5000 0 0 0 0 0 0
cpu10 400 0 0 5000
intr 12345 6
ctxt 77
"""


def test_all_but_idling_and_waiting_for_disks_is_busy() -> None:
    assert busy_s(STAT, [0], 100) == pytest.approx(1.68)  # guests, the ninth field, are part of the first
    assert busy_s(STAT, [1, 10], 100) == pytest.approx(6.0)
    assert busy_s(STAT, [0, 1, 10], 50) == pytest.approx(15.36)


@pytest.mark.parametrize("text", ["", "cpu", "cpu0", "cpu0 x y z", "nothing at all\n\n"])
def test_what_tells_nothing_counts_nothing(text: str) -> None:
    assert busy_s(text, [0, 3], 100) == 0.0


def test_own_time_is_that_of_this_process_and_the_given_ones(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    alone, twice = (processor_use([core], pids) for pids in ([], [os.getpid()]))
    assert alone.busy_s > 0
    assert twice.own_s > 1.5 * alone.own_s > 0
    nobody = processor_use([core], [2**30], stat=tmp_path / "none")
    assert nobody.busy_s == 0.0
    assert nobody.own_s >= alone.own_s
