"""What a fleet shows of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStats:
    """A snapshot for metrics and tests; what was counted so far, and how it is now."""

    num_losses: int
    """times that workers were lost, while they worked or while they were being started"""
    num_recoveries: int
    """times that a lost replica had workers again"""
    recoveries_s: tuple[float, ...]
    """for how long replicas had no workers, the latest ones in order"""
    num_serving: int
    """replicas that have their workers"""
    num_recovering: int
    """replicas that are to have workers again"""
    slowdowns: tuple[tuple[float, ...], ...]
    """for each stage of each replica, how many times as long as expected its latest steps took; empty where no worker
    has computed yet"""
