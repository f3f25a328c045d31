"""The goal by which a plan is chosen for any model: an objective, a latency target, and simplicity among equals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from shoal.errors import ConfigError

Objective = Literal["throughput", "latency", "balanced"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
_SIMPLER_IS_WORTH = 0.02
"""A simpler kind of split is taken if its score is lower by at most this share; predictions are no more exact."""

CandidateT = TypeVar("CandidateT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The goal by which a plan is chosen."""

    objective: Objective = "balanced"
    """Highest throughput under the load, shortest time of a lone request, or the best product of both."""
    latency_slo_s: float | None = None
    """Seconds that a whole request may take under the load; None: no limit."""

    def score(self, per_s: float, lone_s: float) -> float:
        """The score of a throughput in tokens or rows per second and a lone request's seconds; higher is better."""
        match self.objective:
            case "throughput":
                return per_s
            case "latency":
                return 1.0 / lone_s
            case "balanced":
                return per_s / lone_s


def make_goal(objective: str, latency_slo_s: float | None) -> Goal:
    """Check the user's goal. Raises ConfigError if the objective is unknown or the limit is not above 0."""
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective {objective!r}: use one of {', '.join(OBJECTIVES)}")
    if latency_slo_s is not None and latency_slo_s <= 0:
        raise ConfigError("the latency target must be more than 0 seconds")
    return Goal(objective=objective, latency_slo_s=latency_slo_s)


def choose_simplest(allowed: Sequence[CandidateT], score: Callable[[CandidateT], float]) -> CandidateT:
    """Choose the first candidate that is nearly as good as the best. `allowed`: at least one, simplest kind first."""
    enough = (1.0 - _SIMPLER_IS_WORTH) * max(map(score, allowed))
    return next(one for one in allowed if score(one) >= enough)
