"""Whether a replica whose workers have changed speed should be given another split: does the move pay for itself?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_HORIZON_S = 600.0
"""A slowdown is expected to last as long again as it has lasted, up to here. A judgment."""
SMALLEST_GAIN = 0.15
"""Share of a step's time that a move must save: predictions are off by a tenth, and a move for less would only be
followed by the next. A judgment."""
SAFETY = 2.0
"""How many times its cost a move must save: the cost is certain, the saving is not."""


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
