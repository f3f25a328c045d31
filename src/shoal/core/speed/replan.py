"""Whether a replica whose workers have changed speed should move to another split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.speed.slow_workers import SLOWED_FACTOR

MAX_HORIZON_S = 600.0
"""A slowdown is expected to last as long again as it has lasted, up to this time. A judgment."""
SMALLEST_GAIN = 0.15
"""The least share of a step's time that a move must save: predictions are off by a tenth, and a move for less would
soon be followed by another. A judgment."""
SAFETY = 2.0
"""A move must save so many times its cost, since the cost is certain and the saving is not."""
LOOK_S = 2.0
"""Seconds between two looks at a replica; a slowdown must last longer than that before a move can pay."""
_STANDSTILL_S = 2.0
"""Seconds that requests wait while their rows are recomputed; new workers load beside the old ones. A judgment: a few
hundred tokens of context for each of a few requests, or a few batches."""
_FORGET = 0.9
"""Weight of the past in the mean number of requests at every look: the mean covers about 20 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The expected gain and cost of giving a replica another plan."""

    gain: float
    """The share of a step's time that is saved, below 1; negative: the move makes the replica slower."""
    saved_s: float
    """Seconds of waiting that requests save, summed over all of them."""
    cost_s: float
    """Seconds that requests wait for the move, summed over all of them."""

    @property
    def pays(self) -> bool:
        """Whether the move is worth its cost."""
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
    """Compare staying with the present plan with moving to the best other one.

    As many steps are in flight as there are stages, so the slowest stage sets the pace of either plan.

    Args:
        present_s: seconds of each stage for a typical step, at the workers' present speeds.
        moved_s: the same under the other plan.
        standstill_s: seconds for which the replica stands still while running requests are recomputed.
        lasted_s: seconds for which the workers have had their present speeds.
        num_requests: the replica's requests now, which would wait for the move.
        mean_requests: the replica's requests on average lately, so that an idle replica is not moved.
    """
    gain = 1.0 - max(moved_s) / max(present_s)
    horizon_s = min(lasted_s, MAX_HORIZON_S)
    return Move(gain=gain, saved_s=horizon_s * gain * mean_requests, cost_s=standstill_s * num_requests)


class ReplanWatch:
    """Slowdown and number of requests of one pipeline over time, for any kind of work. `now_s` is on one clock."""

    def __init__(self) -> None:
        self._slow_since_s: float | None = None
        self._num_requests = 0.0
        self._mean_requests = 0.0

    def look(self, slowdowns: Sequence[float], num_requests: float, now_s: float) -> bool:
        """Look at the pipeline; to be called every `LOOK_S`. Returns whether to search for another split.

        Args:
            slowdowns: observed over expected seconds of each stage; empty if no other split is possible.
            num_requests: the pipeline's requests now.
            now_s: the time.
        """
        self._num_requests = num_requests
        self._mean_requests = _FORGET * self._mean_requests + (1 - _FORGET) * num_requests
        if max(slowdowns, default=0.0) < SLOWED_FACTOR:
            self._slow_since_s = None
        elif self._slow_since_s is None:
            self._slow_since_s = now_s
        return self._slow_since_s is not None

    def weigh(self, present_s: Sequence[float], moved_s: Sequence[float], now_s: float) -> Move:
        """The expected gain and cost of a move, after a look that found the pipeline slow; see `weigh_move`."""
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
        """Forget the slowdown, because the replica was moved or could not be moved."""
        self._slow_since_s = None
