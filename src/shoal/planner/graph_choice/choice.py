"""What was chosen for a graph, and from what: of one machine's splits, or of what several machines can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shoal.planner.choice.compare import Alternative, Comparable
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.candidate import RowPrediction


class GraphSplit(Comparable, Protocol):
    """A whole plan for a graph under consideration."""

    @property
    def split(self) -> str:
        """The split in words, as `--split` says it as far as that goes."""
        ...

    @property
    def prediction(self) -> RowPrediction:
        """What it is expected to reach."""
        ...


SplitT = TypeVar("SplitT", bound=GraphSplit, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphChoice(Generic[SplitT]):
    """The split that was chosen and what it was chosen from."""

    best: SplitT
    alternatives: tuple[Alternative[SplitT], ...]
    """one of every kind, in the order of KINDS"""
    bound_rows_per_s: float
    """that no split of these machines exceeds by the same figures: all workers always busy, nothing moved"""

    @property
    def gap(self) -> float:
        """By how much, at most, a better split could be better: (bound - found) / bound."""
        return max(0.0, 1.0 - self.best.prediction.rows_per_s / self.bound_rows_per_s)


def nearest_to_target(nearest: GraphSplit, goal: Goal) -> str:
    """The message where no split meets the latency target."""
    return (
        f"no split takes a micro-batch through the graph within {goal.latency_slo_s:g} s; the nearest, "
        f"--split {nearest.split}, takes {nearest.loaded_s:.3g} s; allow that, or fewer rows at once"
    )
