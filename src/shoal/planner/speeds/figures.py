"""How far measurements can be trusted: how thorough they were, and how much other processes computed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.planner.speeds.speeds import WorkerClass

MOST_OTHERS_SHARE = 0.2
"""The share of the cores' time that other processes may take without a warning. A judgment: plans that are compared
often differ by a fifth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorUse:
    """The use of some cores up to one moment."""

    at_s: float
    """The moment, on any monotonic clock."""
    busy_s: float
    """Seconds that all of the cores have computed for any process, since they were started."""
    own_s: float
    """Seconds of it for the measuring processes, since these were started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The quality of the measurements of some workers, all together."""

    is_rough: bool
    """Whether some are rough, from a quick look."""
    others_share: float
    """The largest share of the measured cores' time that other processes took, 0 to 1."""

    @property
    def is_disturbed(self) -> bool:
        """Whether other processes took so much that the measurements may be wrong."""
        return self.others_share > MOST_OTHERS_SHARE


def others_share(before: ProcessorUse, after: ProcessorUse, num_cores: int) -> float:
    """The share of the cores' time between two moments that other processes took, 0 to 1."""
    available_s = (after.at_s - before.at_s) * num_cores
    foreign_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, foreign_s / available_s)) if available_s > 0 else 0.0


def figures_of(classes: Iterable[WorkerClass]) -> Figures:
    """The quality of the measurements of worker classes. Described workers are neither rough nor disturbed."""
    known = list(classes)
    return Figures(
        is_rough=any(one.is_rough for one in known),
        others_share=max((one.others_share for one in known), default=0.0),
    )
