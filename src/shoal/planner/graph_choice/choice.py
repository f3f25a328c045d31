"""The chosen split of a graph and its alternatives, over one machine or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shoal.planner.choice.compare import Alternative, Comparable
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.candidate import RowPrediction


class GraphSplit(Comparable, Protocol):
    """A complete plan for a graph under consideration."""

    @property
    def split(self) -> str:
        """The split, in the notation of `--split` as far as it can express it."""
        ...

    @property
    def prediction(self) -> RowPrediction:
        """The predicted speed."""
        ...


SplitT = TypeVar("SplitT", bound=GraphSplit, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphChoice(Generic[SplitT]):
    """The chosen split, and the splits that it was chosen from."""

    best: SplitT
    alternatives: tuple[Alternative[SplitT], ...]
    """The best split of every kind, in the order of KINDS."""
    bound_rows_per_s: float
    """An upper bound for every split over these machines: all workers always busy, and no transfers."""

    @property
    def gap(self) -> float:
        """The relative distance of the split from the bound, (bound - found) / bound."""
        return max(0.0, 1.0 - self.best.prediction.rows_per_s / self.bound_rows_per_s)


def nearest_to_target(nearest: GraphSplit, goal: Goal) -> str:
    """The message if no split meets the latency target."""
    return (
        f"no split takes a micro-batch through the graph within {goal.latency_slo_s:g} s; the nearest, "
        f"--split {nearest.split}, takes {nearest.loaded_s:.3g} s; allow that, or fewer rows at once"
    )
