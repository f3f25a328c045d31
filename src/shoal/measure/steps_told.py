"""Reporting the progress of a measurement to a waiting user."""

from __future__ import annotations

import time
from collections.abc import Callable


class StepsTold:
    """Progress over a known number of steps, some of which may be skipped."""

    def __init__(
        self, tell: Callable[[str], None], num_steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` is called with a line for each step."""
        self._tell, self._num_steps, self._clock = tell, num_steps, clock
        self._index = self._num_done = 0
        self._started_s: float | None = None

    def skip_to(self, index: int) -> None:
        """Set the index of the next step, counted from 0; earlier ones are done or were known."""
        self._index = index

    def begin(self, what: str) -> None:
        """Report that a step begins."""
        now_s = self._clock()
        left = ""
        if self._started_s is None:
            self._started_s = now_s
        else:
            self._num_done += 1
            left_s = (now_s - self._started_s) / self._num_done * (self._num_steps - self._index)
            left = f", about {left_s:.0f} s left"
        self._index += 1
        self._tell(f"step {self._index} of {self._num_steps}{left}: {what}")
