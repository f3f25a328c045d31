"""Settings of recovery: time-outs, restarts and when a replica is given up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shoal.errors import ConfigError

MAX_LOSSES = 3
"""Losses of workers in a row after which the work that they had is given up, be it a request or a chunk of a map: one
loss is blamed on the machine, three on the work. A judgment."""
_DEVICE_STEP_S, _DEVICE_LOAD_S = 10.0, 120.0
"""Minimum time-outs for workers on devices, whose providers silently compile kernels while they load and for new
shapes. A judgment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    """When workers count as lost, and how they are restarted. Raises ConfigError if a value is out of range."""

    worker_timeout_s: float = 2.0
    """Seconds of silence after which workers that owe an answer count as lost, > 0. Long steps get longer
    (patience.py)."""
    runaway_s: float | None = None
    """For work that may never end (a graph with loops): the least time in seconds before its workers count as lost, >
    0. They give the work up a little earlier and continue. None: the time of work follows from its size."""
    load_timeout_s: float = 10.0
    """Seconds of silence after which loading workers count as lost, > 0; adapted to how long they took before."""
    backoff_s: float = 0.5
    """Seconds before the second restart in a row, > 0. The first is immediate; each further one waits twice as long."""
    max_backoff_s: float = 30.0
    """The longest wait before a restart in seconds, >= backoff_s."""
    max_failures: int = 6
    """Failures in a row after which a replica is given up, >= 1, if they took at least `crash_loop_s`."""
    crash_loop_s: float = 30.0
    """Seconds from the first to the last of `max_failures` failures, >= 0: an external cause may be over by then."""
    replan_after: int = 3
    """Times in a row that one worker fails to load before its replica is planned again without it, >= 1."""
    settled_s: float = 10.0
    """Seconds, > 0. Losing workers that served for so long, or answered a step, starts a new row of failures."""

    def without_restart(self) -> RecoveryConfig:
        """The same settings for workers that cannot be restarted: the first loss gives the replica up."""
        return replace(self, max_failures=1, crash_loop_s=0.0)

    def for_devices(self) -> RecoveryConfig:
        """The same settings with longer time-outs for workers on devices."""
        return replace(
            self,
            worker_timeout_s=max(self.worker_timeout_s, _DEVICE_STEP_S),
            load_timeout_s=max(self.load_timeout_s, _DEVICE_LOAD_S),
        )

    def __post_init__(self) -> None:
        for name in ("worker_timeout_s", "load_timeout_s", "backoff_s", "settled_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be above 0")
        if self.runaway_s is not None and self.runaway_s <= 0:
            raise ConfigError(f"runaway_s is {self.runaway_s}, but it must be above 0")
        minima = {"max_failures": 1, "crash_loop_s": 0.0, "replan_after": 1, "max_backoff_s": self.backoff_s}
        for name, minimum in minima.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least {minimum}")
