"""Whether a language-model request may wait in the queue, and when a refused one should come again."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import ConfigError, QueueFull

_UNKNOWN_RETRY_S = 1.0
"""Used where nothing has been measured yet: HTTP's smallest number of whole seconds (RFC 9110, 10.2.3)."""
_DECAY = 0.97
"""Weight of the past at every end: about thirty requests count, as many as one replica runs at once by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """How many requests may wait. Raises ConfigError where a value is out of range."""

    max_queue: int = 1024
    """Requests that may wait beyond those that can run at once, >= 1. One larger call is taken while none waits."""

    def __post_init__(self) -> None:
        if self.max_queue < 1:
            raise ConfigError(f"max_queue is {self.max_queue}, but it must be at least 1")


class EndRate:
    """How fast requests end, learned from the latest ends; times when there was nothing to do do not count."""

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
        """Seconds until so many more requests have ended. One that is overdue by x is expected to take another x."""
        if not self._count:
            return _UNKNOWN_RETRY_S
        gap_s = self._gaps_s / self._count
        return num_requests * gap_s + max(0.0, now_s - self._since_s - gap_s)


def reason_to_refuse(
    config: AdmissionConfig, *, num_new: int, num_unfinished: int, max_running: int, rate: EndRate, now_s: float
) -> QueueFull | None:
    """Why a call should not even wait, or None.

    Args:
        config: the limit.
        num_new: requests of the call, taken together or not at all.
        num_unfinished: requests that have not ended.
        max_running: how many can run at once.
        rate: at which they end.
        now_s: on the clock of the rate.
    """
    num_waiting = max(0, num_unfinished - max_running)
    num_excess = num_unfinished + num_new - max_running - config.max_queue
    if not num_waiting or num_excess <= 0:
        return None
    return QueueFull(
        f"{num_waiting} requests are already waiting, and {num_new} more do not fit", rate.expected_s(num_excess, now_s)
    )
