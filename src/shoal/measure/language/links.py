"""Timing messages, hidden states and all-reduces between processes of this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from shoal.measure.language.process import ProfileTeam, seconds_of
from shoal.planner.speeds.speeds import LinkSpeed
from shoal.protocol.profile_messages import PAIR, Echo, TimeFrames, TimeSums

SMALL_BYTES, LARGE_BYTES = 4 << 10, 1 << 20
"""Sizes of the hidden states of a few output rows, and of a chunk of prompt rows."""
_SMALL_COUNT, _LARGE_COUNT = 40, 15
_PAUSE_S = 2e-3
"""Longer than a receiver spins: in a pipeline it sleeps when hidden states arrive."""
_LATE_S = 1e-4
"""Delay between two shards: half a layer's attention or MLP that is not split evenly."""
_ECHO_BYTES = 2048
"""Bytes of a step of 16 sequences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSpeeds:
    """The speeds of the links between two workers."""

    ring: LinkSpeed
    """Shared memory, one way."""
    tcp: LinkSpeed
    """TCP over the loopback interface, one way."""
    sums: LinkSpeed
    """An all-reduce through shared memory."""


def measure_pair(team: ProfileTeam) -> PairSpeeds | None:
    """Measure the links of a team's first two workers; None if it has only one. Raises WorkerLost."""
    if len(team.slots) < PAIR:
        return None
    return PairSpeeds(
        ring=_link(lambda num_bytes, count: _frames_s(team, "ring", num_bytes, count)),
        tcp=_link(lambda num_bytes, count: _frames_s(team, "tcp", num_bytes, count)),
        sums=_link(lambda num_bytes, count: _sums_s(team, num_bytes, count)),
    )


def measure_message(team: ProfileTeam) -> float:
    """Measure the seconds of a round trip to a sleeping worker. Raises WorkerLost."""
    seconds: list[float] = []
    for _ in range(_SMALL_COUNT):
        time.sleep(_PAUSE_S)
        started_s = time.perf_counter()
        team.ask(0, Echo(payload=bytes(_ECHO_BYTES)))
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds)


def link_speed(small_s: float, large_s: float) -> LinkSpeed:
    """Latency and bandwidth from the times of SMALL_BYTES and LARGE_BYTES. Neither is negative: if the large message
    took no longer, the bandwidth is that of the small one."""
    per_byte_s = max(0.0, large_s - small_s) / (LARGE_BYTES - SMALL_BYTES)
    latency_s = max(0.0, small_s - SMALL_BYTES * per_byte_s)
    return LinkSpeed(latency_s=latency_s, bytes_per_s=1 / per_byte_s if per_byte_s else SMALL_BYTES / small_s)


def _link(measure: Callable[[int, int], float]) -> LinkSpeed:
    return link_speed(measure(SMALL_BYTES, _SMALL_COUNT), measure(LARGE_BYTES, _LARGE_COUNT))


def _frames_s(team: ProfileTeam, link: str, num_bytes: int, count: int) -> float:
    """Seconds of a frame from the first worker to the second, whose receiver sleeps before each frame."""

    def request(rank: int) -> TimeFrames:
        return TimeFrames(link=link, is_sender=rank == 0, num_bytes=num_bytes, count=count, pause_s=_PAUSE_S)

    _, received = team.ask_pair(request)
    return statistics.median(seconds_of(received)[1:])


def _sums_s(team: ProfileTeam, num_bytes: int, count: int) -> float:
    """Seconds of an all-reduce, from the arrival of the later worker until the last one has the sum."""
    answers = team.ask_pair(lambda rank: TimeSums(num_bytes=num_bytes, count=count, late_s=_LATE_S))
    first, second = (seconds_of(answer) for answer in answers)
    came = zip(first[::2], second[::2], strict=True)
    left = zip(first[1::2], second[1::2], strict=True)
    return statistics.median([max(after) - max(before) for before, after in zip(came, left, strict=True)][1:])
