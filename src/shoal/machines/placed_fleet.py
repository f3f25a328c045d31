"""The workers that machines offer to a plan: their speed and their places."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.speeds.speeds import Fleet

Places = tuple[tuple[WorkerPlacement, ...], ...]
"""Places of the workers of each class. Machines from a cluster file have places without cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFleet:
    """Workers that run a language model, and their places."""

    fleet: Fleet
    places: Places

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(one.name for one in self.fleet.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedGraphFleet:
    """Workers that run an ONNX graph, and their places."""

    fleet: GraphFleet
    places: Places

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(one.name for one in self.fleet.classes)
