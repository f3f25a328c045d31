"""Admission control for language models: whether a request may wait, and when a refused client should try again."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import ConfigError, QueueFull

_UNKNOWN_RETRY_S = 1.0
"""Retry-After before anything has been measured: the smallest whole number of seconds above 0 (RFC 9110, 10.2.3)."""
_DECAY = 0.97
"""Weight of the past at every end: the average covers about thirty requests, as many as a replica runs by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """How many requests may wait. Raises ConfigError if a value is out of range."""

    max_queue: int = 1024
    """The most requests that may wait beyond those that can run at once, >= 1. A single larger call is accepted while
    none waits."""

    def __post_init__(self) -> None:
        if self.max_queue < 1:
            raise ConfigError(f"max_queue is {self.max_queue}, but it must be at least 1")


class EndRate:
    """The rate at which requests end, learned from recent ends. Idle time does not count."""

    __slots__ = ("_count", "_gaps_s", "_since_s")

    def __init__(self) -> None:
        self._gaps_s = self._count = 0.0
        self._since_s = 0.0
        """Time of the latest end, or of the start of work if that came later."""

    def note_start(self, now_s: float) -> None:
        """Note that work begins where there was none."""
        self._since_s = now_s

    def note_end(self, now_s: float) -> None:
        """Note that a request has ended, in whatever way."""
        self._gaps_s = self._gaps_s * _DECAY + (now_s - self._since_s)
        self._count = self._count * _DECAY + 1.0
        self._since_s = now_s

    def expected_s(self, num_requests: int, now_s: float) -> float:
        """Expected seconds until so many more requests end. One that is overdue by x is expected to take another x."""
        if not self._count:
            return _UNKNOWN_RETRY_S
        gap_s = self._gaps_s / self._count
        return num_requests * gap_s + max(0.0, now_s - self._since_s - gap_s)


def reason_to_refuse(
    config: AdmissionConfig, *, num_new: int, num_unfinished: int, max_running: int, rate: EndRate, now_s: float
) -> QueueFull | None:
    """Return the error with which a call is refused, or None to let it wait.

    Args:
        config: the limit.
        num_new: requests of the call, which are accepted together or not at all.
        num_unfinished: requests that have not ended.
        max_running: how many requests can run at once.
        rate: the rate at which requests end.
        now_s: the time, on the clock of `rate`.
    """
    num_waiting = max(0, num_unfinished - max_running)
    num_excess = num_unfinished + num_new - max_running - config.max_queue
    if not num_waiting or num_excess <= 0:
        return None
    return QueueFull(
        f"{num_waiting} requests are already waiting, and {num_new} more do not fit", rate.expected_s(num_excess, now_s)
    )
