"""The workers that machines offer to a plan: how fast they are, and where each of them sits."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.speeds.speeds import Fleet

Places = tuple[tuple[WorkerPlacement, ...], ...]
"""of the workers of each class; described machines have places without cores"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFleet:
    """Workers that run a language model, and where they sit."""

    fleet: Fleet
    places: Places

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(one.name for one in self.fleet.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedGraphFleet:
    """Workers that run an ONNX graph, and where they sit."""

    fleet: GraphFleet
    places: Places

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(one.name for one in self.fleet.classes)
