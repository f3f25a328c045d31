"""Whether a replica whose workers have changed speed should be given another split: does the move pay for itself?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.speed.slow_workers import SLOWED_FACTOR

MAX_HORIZON_S = 600.0
"""A slowdown is expected to last as long again as it has lasted, up to here. A judgment."""
SMALLEST_GAIN = 0.15
"""Share of a step's time that a move must save: predictions are off by a tenth, and a move for less would only be
followed by the next. A judgment."""
SAFETY = 2.0
"""How many times its cost a move must save: the cost is certain, the saving is not."""
LOOK_S = 2.0
"""Between two looks at a replica. A slowdown must have lasted for longer than that anyway before a move can pay."""
_STANDSTILL_S = 2.0
"""That requests wait while what they have computed is computed again; the new workers load beside the old ones. A
judgment: some hundred tokens of context for each of some requests, or some batches."""
_FORGET = 0.9
"""Weight of the past in the mean number of requests, at every look: about 20 s count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What is expected of giving a replica another plan."""

    gain: float
    """share of the replica's time for a step that is saved, below 1; negative: the move makes it slower"""
    saved_s: float
    """that requests would wait less, summed over all of them"""
    cost_s: float
    """that requests wait for the move, summed over all of them"""

    @property
    def pays(self) -> bool:
        """Whether to move."""
        return self.gain >= SMALLEST_GAIN and self.saved_s > SAFETY * self.cost_s


def weigh_move(
    present_s: Sequence[float],
    moved_s: Sequence[float],
    *,
    standstill_s: float,
    lasted_s: float,
    num_requests: float,
    mean_requests: float,
) -> Move:
    """Compare going on under the present plan with moving to the best other one.

    As many steps are in flight as there are stages, so the slowest stage sets the pace of either plan.

    Args:
        present_s: for each stage, seconds for a typical step as its workers are now.
        moved_s: the same under the other plan, with the same speeds of the workers.
        standstill_s: that the replica stands still: layers read again, running requests computed again.
        lasted_s: how long the workers have had their present speeds.
        num_requests: that would wait for the move: those of this replica now.
        mean_requests: that the replica had on average lately, so that an idle one is not moved about.
    """
    gain = 1.0 - max(moved_s) / max(present_s)
    horizon_s = min(lasted_s, MAX_HORIZON_S)
    return Move(gain=gain, saved_s=horizon_s * gain * mean_requests, cost_s=standstill_s * num_requests)


class ReplanWatch:
    """Follows how slow one pipeline is, and how many requests it has, whatever its work. `now_s` is on one clock."""

    def __init__(self) -> None:
        self._slow_since_s: float | None = None
        self._num_requests = 0.0
        self._mean_requests = 0.0

    def look(self, slowdowns: Sequence[float], num_requests: float, now_s: float) -> bool:
        """To be called every `LOOK_S`. Whether another split is worth looking for.

        Args:
            slowdowns: of each stage, observed over expected seconds; empty where it cannot be split otherwise.
            num_requests: that it has now.
            now_s: see above.
        """
        self._num_requests = num_requests
        self._mean_requests = _FORGET * self._mean_requests + (1 - _FORGET) * num_requests
        if max(slowdowns, default=0.0) < SLOWED_FACTOR:
            self._slow_since_s = None
        elif self._slow_since_s is None:
            self._slow_since_s = now_s
        return self._slow_since_s is not None

    def weigh(self, present_s: Sequence[float], moved_s: Sequence[float], now_s: float) -> Move:
        """What is expected of a move, after a look that found it slow. Arguments as of `weigh_move`."""
        assert self._slow_since_s is not None, "it is not slow"
        return weigh_move(
            present_s,
            moved_s,
            standstill_s=_STANDSTILL_S,
            lasted_s=now_s - self._slow_since_s,
            num_requests=self._num_requests,
            mean_requests=self._mean_requests,
        )

    def start_over(self) -> None:
        """It has been moved, or could not be."""
        self._slow_since_s = None
