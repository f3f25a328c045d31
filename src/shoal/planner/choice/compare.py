"""Comparison of candidates for any kind of model: the best one of each kind, and why the others were not taken.

A single worker and whole copies are compared like the other kinds and often win: of candidates that are nearly equally
good, the simplest one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shoal.errors import ConfigError
from shoal.planner.choice.goal import Goal, choose_simplest
from shoal.planner.choice.kinds import KINDS, Kind


class Comparable(Protocol):
    """A complete plan under consideration, with its prediction."""

    @property
    def kind(self) -> Kind:
        """The kind of split."""
        ...

    @property
    def num_workers(self) -> int:
        """Workers of all replicas."""
        ...

    @property
    def loaded_s(self) -> float:
        """Seconds of one unit of work under the planned load."""
        ...

    def score(self, goal: Goal) -> float:
        """The plan's score by a goal; higher is better."""
        ...


CandidateT = TypeVar("CandidateT", bound=Comparable)
ComparedT = TypeVar("ComparedT", bound=Comparable, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative(Generic[ComparedT]):
    """The best plan of one kind, or why there is none."""

    kind: Kind
    candidate: ComparedT | None
    reason: str
    """Why the plan was not taken; empty if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Generic[ComparedT]):
    """The plan that was chosen, and the plans that it was chosen from."""

    best: ComparedT
    alternatives: tuple[Alternative[ComparedT], ...]
    """One plan of every kind, in the order of KINDS."""


def compare(
    candidates: Sequence[CandidateT],
    goal: Goal,
    *,
    unit: str,
    nearest: Callable[[CandidateT], str],
    why_none: Callable[[Kind], str],
) -> Comparison[CandidateT]:
    """Choose the best candidate of every kind, and of these the simplest one that is nearly as good as the best.

    Args:
        candidates: at least one candidate.
        goal: the goal by which candidates are compared.
        unit: the unit of work for messages, such as `a request`.
        nearest: makes the message if no candidate meets the latency target, from the nearest one.
        why_none: says why there is no candidate of a kind.

    Raises:
        ConfigError: no candidate meets the latency target.
    """
    best_of_kind: dict[Kind, CandidateT | None] = {kind: _best(kind, candidates, goal) for kind in KINDS}
    allowed = [one for one in best_of_kind.values() if one is not None and meets(one, goal)]
    if not allowed:
        raise ConfigError(nearest(min(candidates, key=lambda one: one.loaded_s)))
    best = choose_simplest(allowed, lambda one: one.score(goal))
    alternatives = (
        Alternative(kind=kind, candidate=one, reason=why_none(kind) if one is None else _reason(one, best, goal, unit))
        for kind, one in best_of_kind.items()
    )
    return Comparison(best=best, alternatives=tuple(alternatives))


def meets(candidate: Comparable, goal: Goal) -> bool:
    """Whether a plan meets the latency target."""
    return goal.latency_slo_s is None or candidate.loaded_s <= goal.latency_slo_s


def _best(kind: Kind, candidates: Sequence[CandidateT], goal: Goal) -> CandidateT | None:
    """The best candidate of a kind: by meeting the target, then by score, then by fewer workers."""
    return max(
        (one for one in candidates if one.kind == kind),
        key=lambda one: (meets(one, goal), one.score(goal), -one.num_workers),
        default=None,
    )


def _reason(candidate: CandidateT, best: CandidateT, goal: Goal, unit: str) -> str:
    if candidate is best:
        return ""
    if not meets(candidate, goal):
        return f"{unit} takes {candidate.loaded_s:.3g} s, of {goal.latency_slo_s:g} s allowed"
    worse = 1.0 - candidate.score(goal) / best.score(goal)
    return f"{worse:.0%} worse by {goal.objective}" if worse > 0 else "not enough better to split more"
