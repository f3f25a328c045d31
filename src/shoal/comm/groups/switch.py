"""Up to which size a tensor is summed one-shot rather than in segments, measured in the group itself.

One-shot costs one message time and the transfer of as many tensors as there are ranks; segments cost two message times
and two tensors in total. The break-even point depends on the machine, the network and the number of ranks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shoal.arrays import F32
from shoal.core.collectives import ProcessGroup

_SIZES_BYTES = tuple(4096 * 4**step for step in range(6))
"""From 4 KiB, where the message costs more than its bytes, to 4 MiB, where it is the reverse on any network."""
_ROUNDS = ((64 << 10, 25), (1 << 62, 5))
"""(upper limit in bytes, number of timed sums of each kind): the two ways differ least where they are short."""
_SETTLED_SIZES = 2
"""Number of consecutive sizes at which segments were faster, after which larger ones are not tried."""
_SLOW_S = 5e-3
"""Time of both ways together, after which larger sizes are not tried either: the next one would take a tenth of a
second."""
_ALWAYS_ONE_SHOT = 1 << 62
_ALWAYS_SEGMENTS = 0


class SwitchedGroup(ProcessGroup, Protocol):
    """A group that sums in two ways. The switch must have the same value on all ranks, and be set between calls."""

    switch_bytes: int
    """Larger tensors are summed in segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of both ways at one size."""

    num_bytes: int
    one_shot_s: float
    segments_s: float


def measure_switch(group: SwitchedGroup, *, timeout_s: float) -> int:
    """Time both ways on rank 0 and set `group.switch_bytes` on all ranks. Every rank calls this at the same place.

    Args:
        group: must not be used otherwise meanwhile. Mutates: its switch.
        timeout_s: of the whole measurement.

    Returns:
        The switch, in bytes.

    Raises: as `ProcessGroup.all_reduce`.
    """
    deadline_s = time.monotonic() + timeout_s
    timings: list[Timing] = []
    for num_bytes in _SIZES_BYTES:
        timings.append(_measure(group, num_bytes, deadline_s))
        if is_settled(timings):
            break
    group.switch_bytes = choose_switch(timings)
    return group.switch_bytes


def is_settled(timings: Sequence[Timing]) -> bool:
    """Whether larger tensors need not be timed."""
    last = timings[-_SETTLED_SIZES:]
    won = len(last) == _SETTLED_SIZES and all(timing.segments_s < timing.one_shot_s for timing in last)
    return won or last[-1].one_shot_s + last[-1].segments_s > _SLOW_S


def choose_switch(timings: Sequence[Timing]) -> int:
    """The switch in bytes that loses the least time, relatively, over all timed sizes; one outlier does not move it.

    Args:
        timings: of ascending sizes, at least one.

    Returns:
        0 if segments are always faster, the largest size if they never are, otherwise the geometric mean of the two
        sizes between which they become faster.
    """
    sizes = [timing.num_bytes for timing in timings]
    split = min(range(len(timings) + 1), key=lambda index: _lost(timings, index))
    if split in (0, len(timings)):
        return 0 if split == 0 else sizes[-1]
    return round((sizes[split - 1] * sizes[split]) ** 0.5)


def _lost(timings: Sequence[Timing], num_one_shot: int) -> float:
    """Sum over all sizes of the chosen way's time divided by the faster one's, with the smallest sizes one-shot."""
    chosen = [t.one_shot_s if index < num_one_shot else t.segments_s for index, t in enumerate(timings)]
    return sum(time_s / min(t.one_shot_s, t.segments_s) for time_s, t in zip(chosen, timings, strict=True))


def _measure(group: SwitchedGroup, num_bytes: int, deadline_s: float) -> Timing:
    """The medians of rank 0, sent to all ranks, which must agree on whether to continue and on the result."""
    x = np.zeros(num_bytes // 4, np.float32)
    times_s: dict[int, list[float]] = {_ALWAYS_ONE_SHOT: [], _ALWAYS_SEGMENTS: []}
    rounds = next(rounds for up_to_bytes, rounds in _ROUNDS if num_bytes <= up_to_bytes)
    for _ in range(1 + rounds):  # the first of each kind touches memory for the first time
        for switch_bytes, taken_s in times_s.items():
            group.switch_bytes = switch_bytes
            taken_s.append(_timed_sum(group, x, deadline_s))
    medians_s = np.array([statistics.median(taken_s[1:]) for taken_s in times_s.values()])
    group.broadcast(medians_s.data, root=0, timeout_s=_left_s(deadline_s))
    one_shot_s, segments_s = medians_s.tolist()
    return Timing(num_bytes=num_bytes, one_shot_s=one_shot_s, segments_s=segments_s)


def _timed_sum(group: SwitchedGroup, x: F32, deadline_s: float) -> float:
    started_s = time.perf_counter()
    group.all_reduce(x, timeout_s=_left_s(deadline_s))
    return time.perf_counter() - started_s


def _left_s(deadline_s: float) -> float:
    return max(0.0, deadline_s - time.monotonic())
