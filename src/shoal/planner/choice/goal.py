"""What a plan is chosen by, whatever the model: an objective, a limit on the time, and simplicity where that costs
nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from shoal.errors import ConfigError

Objective = Literal["throughput", "latency", "balanced"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
_SIMPLER_IS_WORTH = 0.02
"""A simpler kind of split is taken where it is at most this much worse: predictions are no more exact than that."""

CandidateT = TypeVar("CandidateT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The goal that a plan is chosen by."""

    objective: Objective = "balanced"
    """Most tokens or rows a second under the load, the shortest time of a lone request, or the best product of both."""
    latency_slo_s: float | None = None
    """Seconds that a whole request may take under the load; None: any number."""

    def score(self, per_s: float, lone_s: float) -> float:
        """How good so many tokens or rows a second and so long a lone request are; the higher the better."""
        match self.objective:
            case "throughput":
                return per_s
            case "latency":
                return 1.0 / lone_s
            case "balanced":
                return per_s / lone_s


def make_goal(objective: str, latency_slo_s: float | None) -> Goal:
    """The goal that the user asked for. Raises ConfigError for an unknown objective or a limit that is not above 0."""
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective {objective!r}: use one of {', '.join(OBJECTIVES)}")
    if latency_slo_s is not None and latency_slo_s <= 0:
        raise ConfigError("the latency target must be more than 0 seconds")
    return Goal(objective=objective, latency_slo_s=latency_slo_s)


def choose_simplest(allowed: Sequence[CandidateT], score: Callable[[CandidateT], float]) -> CandidateT:
    """The first candidate that is nearly as good as the best. `allowed`: from the simplest kind on, at least one."""
    enough = (1.0 - _SIMPLER_IS_WORTH) * max(map(score, allowed))
    return next(one for one in allowed if score(one) >= enough)
