"""Busy time of cores of this machine, and the part of it that some processes used. Source: proc(5), /proc/stat."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from shoal.planner.speeds.figures import ProcessorUse

_STAT = Path("/proc/stat")
_IDLE_FIELDS = (3, 4)
"""The fields idle and iowait."""
_COUNTED_FIELDS = 8
"""The fields user to steal (time of other virtual machines on this core). Time of guests is contained in user."""


def processor_use(cores: Collection[int], pids: Iterable[int], stat: Path = _STAT) -> ProcessorUse:
    """Busy time until now of the given cores, and of the given processes and this one. Unknown times count as 0."""
    try:
        text = stat.read_text()
    except OSError:
        text = ""
    own = os.times()
    return ProcessorUse(
        at_s=time.monotonic(),
        busy_s=busy_s(text, cores, os.sysconf("SC_CLK_TCK")),
        own_s=own.user + own.system + sum(map(_process_s, pids)),
    )


def busy_s(stat: str, cores: Collection[int], ticks_per_s: int) -> float:
    """Seconds that cores were not idle, from the text of /proc/stat. Cores that it does not list count as 0."""
    ticks = 0
    for name, *fields in filter(None, map(str.split, stat.splitlines())):
        number = name.removeprefix("cpu")
        if number != name and number.isdecimal() and int(number) in cores:
            counted = [int(field) for field in fields[:_COUNTED_FIELDS] if field.isdecimal()]
            ticks += sum(counted) - sum(counted[index] for index in _IDLE_FIELDS if index < len(counted))
    return ticks / ticks_per_s


def _process_s(pid: int) -> float:
    with suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system
    return 0.0
