"""The time that a replica takes for a batch, learned from its batches so far."""

from __future__ import annotations

_DECAY = 0.9
"""Weight of the past at every observation: the fit covers about ten batches, so that a cold first run is soon forgotten
and a slowdown soon noticed. A judgment."""


class BatchTimes:
    """A fit of `seconds = fixed + slope * rows` to the latest batches, by least squares with decaying weights.

    Both terms are non-negative. While all batches have the same number of rows, time is taken as proportional to rows,
    which overestimates larger batches rather than underestimating them.
    """

    __slots__ = ("_count", "_fixed_s", "_rows", "_rows_squared", "_rows_times_s", "_seconds", "_slope_s", "observed_s")

    def __init__(self) -> None:
        self._count = self._rows = self._rows_squared = self._seconds = self._rows_times_s = 0.0
        self._fixed_s = self._slope_s = 0.0
        self.observed_s: float | None = None
        """The time of the latest observation; None: there is none."""

    def observe(self, num_rows: int, seconds: float, now_s: float) -> None:
        """Note that a batch of `num_rows` rows occupied the replica for `seconds`."""
        self.observed_s = now_s
        self._count = self._count * _DECAY + 1.0
        self._rows = self._rows * _DECAY + num_rows
        self._rows_squared = self._rows_squared * _DECAY + num_rows * num_rows
        self._seconds = self._seconds * _DECAY + seconds
        self._rows_times_s = self._rows_times_s * _DECAY + num_rows * seconds
        self._fit()

    def predict(self, num_rows: int, num_batches: int = 1) -> float:
        """Predicted seconds for so many rows in so many batches; 0.0 before the first observation."""
        return self._fixed_s * num_batches + self._slope_s * num_rows

    @property
    def rows_per_s(self) -> float:
        """Rows per second of the latest batches, without idle time; 0.0 before the first observation."""
        return self._rows / self._seconds if self._seconds > 0 else 0.0

    def _fit(self) -> None:
        proportional_s = self._seconds / self._rows
        spread = self._count * self._rows_squared - self._rows * self._rows
        if spread > 1e-9 * self._rows * self._rows:
            slope_s = (self._count * self._rows_times_s - self._rows * self._seconds) / spread
            self._slope_s = min(max(slope_s, 0.0), proportional_s)
        else:
            self._slope_s = proportional_s
        self._fixed_s = max(0.0, (self._seconds - self._slope_s * self._rows) / self._count)
