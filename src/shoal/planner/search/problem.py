"""What the search is given: stages and links in seconds, workers in classes. It knows nothing of models and
machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from shoal.arrays import F64, I64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageTimes:
    """How long every possible stage takes for one wave of one micro-batch of a certain number of rows.

    Shapes: G groups, L blocks.
    """

    work_s: F64
    """[group, first, last], [G, L + 1, L + 1]: seconds of the blocks first:last, the embedding with block 0 and the
    head with block L - 1. Infinite where last <= first and where memory does not suffice; more blocks never take
    less"""
    hop_s: F64
    """[from, to], [G, G]: seconds of handing a wave on; infinite where there is no link"""
    exact_s: Callable[[int, int, int], float] | None = None
    """seconds of a stage (group, first, last), where they take long to find and `work_s` has but a bound from below;
    None: `work_s` has the seconds themselves"""

    def stage_s(self, group: int, first: int, last: int) -> float:
        """Exact seconds of one stage."""
        if self.exact_s is None:
            return float(self.work_s[group, first, last])
        return self.exact_s(group, first, last)

    def of_groups(self, kept: I64) -> StageTimes:
        """Of some groups, which are numbered anew."""
        exact_s = self.exact_s
        return StageTimes(
            work_s=self.work_s[kept],
            hop_s=self.hop_s[np.ix_(kept, kept)],
            exact_s=exact_s and (lambda group, first, last: exact_s(int(kept[group]), first, last)),
        )

    def raised(self, stages: Iterable[tuple[int, int, int]]) -> StageTimes:
        """With the exact seconds of some stages (group, first, last), which larger ones take at least."""
        work_s = self.work_s.copy()
        for group, first, last in stages:
            larger_s = work_s[group, : first + 1, last:]
            np.maximum(larger_s, self.stage_s(group, first, last), out=larger_s)
        return replace(self, work_s=work_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReplicaProblem:
    """A model to be cut into stages, and the workers that there are."""

    num_blocks: int
    """that can be cut between, >= 1"""
    counts: tuple[int, ...]
    """workers of each class"""
    groups: tuple[tuple[int, ...], ...]
    """[group][class]: workers that hold a stage together; one at least in every group"""
    times: Callable[[int], StageTimes]
    """by rows of a micro-batch. A pure function; a search asks once for each number of rows"""
    max_stages: int | None = None
    """of one replica; None: no limit"""
    usable: tuple[bool, ...] | None = None
    """of each group; None: all of them. So a search over fewer groups speaks of the same indexes"""

    def restricted(self, *, single_workers: bool = False, max_stages: int | None = None) -> ReplicaProblem:
        """The same with fewer choices: stages of one worker only, fewer stages."""
        usable = self.usable or (True,) * len(self.groups)
        if single_workers:
            usable = tuple(may and sum(group) == 1 for may, group in zip(usable, self.groups, strict=True))
        limits = [limit for limit in (self.max_stages, max_stages) if limit is not None]
        return replace(self, usable=usable, max_stages=min(limits, default=None))

    def without_whole_stages(self) -> ReplicaProblem:
        """The same where no stage may be everything: two stages at least."""

        def times(rows: int) -> StageTimes:
            given = self.times(rows)
            work_s = given.work_s.copy()
            work_s[:, 0, self.num_blocks] = np.inf
            return replace(given, work_s=work_s)

        return replace(self, times=times)

    def by_bounds(self) -> ReplicaProblem:
        """The same as if all bounds were exact times."""

        def times(rows: int) -> StageTimes:
            return replace(self.times(rows), exact_s=None)

        return replace(self, times=times)

    @property
    def stage_limit(self) -> int:
        """Most stages that a replica can have."""
        limit = self.num_blocks if self.max_stages is None else self.max_stages
        return min(limit, self.num_blocks, sum(self.counts))

    def compact(self) -> tuple[ReplicaProblem, I64]:
        """Without the groups that may not be used or for which there are not enough workers.

        Returns:
            The problem, which remembers times that it has asked for; and the former index of each of its groups.
        """
        fits = [all(use <= count for use, count in zip(group, self.counts, strict=True)) for group in self.groups]
        usable = self.usable or (True,) * len(self.groups)
        kept = np.flatnonzero(np.array(fits, np.bool_) & np.array(usable, np.bool_)).astype(np.int64)

        @cache
        def times(rows: int) -> StageTimes:
            every = self.times(rows)
            if len(kept) == len(self.groups):
                return every
            return every.of_groups(kept)

        groups = tuple(self.groups[index] for index in kept)
        return replace(self, groups=groups, usable=None, times=times), kept
