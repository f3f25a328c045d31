"""How patient recovery is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shoal.errors import ConfigError

_DEVICE_STEP_S, _DEVICE_LOAD_S = 10.0, 120.0
"""Least patience with workers on devices: their providers compile kernels while they load, and for shapes that are new
to them, without a word. A judgment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    """When workers count as lost, and how they are restarted. Raises ConfigError where a value is out of range."""

    worker_timeout_s: float = 2.0
    """silence after which workers that owe an answer count as lost, > 0; longer where steps take long (patience.py)"""
    runaway_s: float | None = None
    """where work may never end by itself (a graph with loops): how long it may take at least before its workers count
    as lost, > 0; they give it up a little earlier and live on. None: how long work takes follows from its size"""
    load_timeout_s: float = 10.0
    """silence after which workers that load count as lost, > 0; less where they were quick before, more where slow"""
    backoff_s: float = 0.5
    """before the second restart in a row, > 0; the first is at once, each further one waits twice as long"""
    max_backoff_s: float = 30.0
    """and no longer than this, >= backoff_s"""
    max_failures: int = 6
    """failures in a row after which a replica is given up, >= 1 ..."""
    crash_loop_s: float = 30.0
    """... if they took at least so long, >= 0: whatever kills workers from outside may be over soon"""
    replan_after: int = 3
    """failures in a row of one worker to load after which its replica is planned anew without it, >= 1"""
    settled_s: float = 10.0
    """workers that were there for so long, or answered a step, have not failed in a row when they are lost, > 0"""

    def without_restart(self) -> RecoveryConfig:
        """The same for workers that nobody knows how to start again: the first loss is the last."""
        return replace(self, max_failures=1, crash_loop_s=0.0)

    def for_devices(self) -> RecoveryConfig:
        """The same where workers are on devices."""
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
