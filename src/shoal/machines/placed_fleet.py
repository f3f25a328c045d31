"""The workers that machines offer to a plan: how fast they are, and where each of them sits."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.planner.speeds.speeds import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFleet:
    """A fleet and where its workers sit."""

    fleet: Fleet
    places: tuple[tuple[WorkerPlacement, ...], ...]
    """of each class; described machines have places without cores"""
