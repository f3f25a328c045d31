"""Unevenness: how a machine's speed varies from one moment to the next, as observed for a few seconds.

Neighbors on a shared host, other processes and the processor's own heat make the same step take twice as long now and
then. The mean is part of a worker's speed; the variation determines the 99th percentile that clients see.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import harmonic_mean

import numpy as np

from shoal.arrays import F64


@dataclass(frozen=True, slots=True)
class TimedMoment:
    """A short period in which one kind of work was run repeatedly."""

    kind: Hashable
    lasted_s: float
    run_s: float
    """Mean seconds of a run."""


class Unevenness:
    """A periodic sequence of intervals in which work takes longer or shorter than on average. Immutable."""

    def __init__(self, seconds: Sequence[float] = (), factors: Sequence[float] = ()) -> None:
        """Make a sequence of intervals; without any, the speed is constant.

        Args:
            seconds: the length of each interval, > 0.
            factors: the relative time that work takes in each interval, > 0; only their ratios matter.
        """
        work = [lasts / factor for lasts, factor in zip(seconds, factors, strict=True)]
        scale = sum(seconds) / sum(work) if work else 1.0
        self._ends_s: F64 = np.array(list(accumulate(seconds, initial=0.0)))
        self._work_s: F64 = np.array(list(accumulate((one * scale for one in work), initial=0.0)))

    def stretch(self, at_s: float, seconds: float) -> float:
        """Seconds that work takes if it begins at `at_s` and takes `seconds` on average, both >= 0."""
        whole_s = float(self._ends_s[-1])
        if not whole_s:
            return seconds
        cycles, into_s = divmod(at_s, whole_s)
        more_cycles, work_s = divmod(float(np.interp(into_s, self._ends_s, self._work_s)) + seconds, whole_s)
        done_s = (cycles + more_cycles) * whole_s + float(np.interp(work_s, self._work_s, self._ends_s))
        return done_s - at_s

    def factor_beyond(self, share: float) -> float:
        """The factor over the average time of work that is reached or exceeded for this share of time, 0 to 1."""
        pieces = zip(pairwise(self._ends_s.tolist()), pairwise(self._work_s.tolist()), strict=True)
        left_s = share * float(self._ends_s[-1])
        for factor, lasts_s in sorted(((end - at) / (done - begun), end - at) for (at, end), (begun, done) in pieces)[
            ::-1
        ]:
            left_s -= lasts_s
            if left_s <= 0.0:
                return factor
        return 1.0


EVEN = Unevenness()
"""Constant speed, for machines that were not observed."""


def unevenness_of(moments: Sequence[TimedMoment]) -> Unevenness:
    """The unevenness of successive moments: the time of a run in each, relative to others of its kind."""
    runs_s: defaultdict[Hashable, list[float]] = defaultdict(list)
    for one in moments:
        runs_s[one.kind].append(one.run_s)
    typical_s = {kind: harmonic_mean(seconds) for kind, seconds in runs_s.items()}
    return Unevenness([one.lasted_s for one in moments], [one.run_s / typical_s[one.kind] for one in moments])
