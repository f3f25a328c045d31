"""How far measured figures can be trusted: how thoroughly workers were measured, and who else computed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.planner.speeds.speeds import WorkerClass

MOST_OTHERS_SHARE = 0.2
"""Of the cores' time, that other processes may take without a warning. Source: a judgment; plans that are
compared often differ by a fifth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorUse:
    """What some cores have done up to one moment."""

    at_s: float
    """by any clock that never goes back"""
    busy_s: float
    """time that all of the cores have computed for anybody, since they were started"""
    own_s: float
    """of that, for the processes that measure, since these were started"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the workers of some fleets were measured like, all together."""

    is_rough: bool
    """whether some were measured in a hurry"""
    others_share: float
    """the largest part of the time of the measured cores that other processes took, 0 to 1"""

    @property
    def is_disturbed(self) -> bool:
        """Whether that is so much that the figures may be wrong."""
        return self.others_share > MOST_OTHERS_SHARE


def others_share(before: ProcessorUse, after: ProcessorUse, num_cores: int) -> float:
    """The part of the cores' time between two moments that other processes took, 0 to 1."""
    available_s = (after.at_s - before.at_s) * num_cores
    foreign_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, foreign_s / available_s)) if available_s > 0 else 0.0


def figures_of(classes: Iterable[WorkerClass]) -> Figures:
    """Described workers are neither rough nor disturbed."""
    known = list(classes)
    return Figures(
        is_rough=any(one.is_rough for one in known),
        others_share=max((one.others_share for one in known), default=0.0),
    )
