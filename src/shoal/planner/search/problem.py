"""The input of the search: stages and links in seconds, and workers in classes, independent of models and machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from shoal.arrays import F64, I64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageTimes:
    """Seconds of every possible stage for one wave of a micro-batch with a certain number of rows.

    Shapes: G groups, L blocks.
    """

    work_s: F64
    """[group, first, last], [G, L + 1, L + 1]: seconds of the blocks first:last, with the embedding in block 0 and the
    head in block L - 1. Infinite if last <= first or if memory does not suffice; more blocks never take less."""
    hop_s: F64
    """[from, to], [G, G]: seconds of passing a wave on; infinite if there is no link."""
    exact_s: Callable[[int, int, int], float] | None = None
    """Gives the exact seconds of a stage (group, first, last) if `work_s` has only lower bounds, because exact ones are
    expensive; None: `work_s` is exact."""

    def stage_s(self, group: int, first: int, last: int) -> float:
        """Exact seconds of one stage."""
        if self.exact_s is None:
            return float(self.work_s[group, first, last])
        return self.exact_s(group, first, last)

    def of_groups(self, kept: I64) -> StageTimes:
        """The times of some groups, with new indices."""
        exact_s = self.exact_s
        return StageTimes(
            work_s=self.work_s[kept],
            hop_s=self.hop_s[np.ix_(kept, kept)],
            exact_s=exact_s and (lambda group, first, last: exact_s(int(kept[group]), first, last)),
        )

    def raised(self, stages: Iterable[tuple[int, int, int]]) -> StageTimes:
        """The times with exact seconds of some stages (group, first, last), which are lower bounds of larger ones."""
        work_s = self.work_s.copy()
        for group, first, last in stages:
            larger_s = work_s[group, : first + 1, last:]
            np.maximum(larger_s, self.stage_s(group, first, last), out=larger_s)
        return replace(self, work_s=work_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReplicaProblem:
    """A model to be divided into stages, and the available workers."""

    num_blocks: int
    """Blocks between which the model can be cut, >= 1."""
    counts: tuple[int, ...]
    """Workers of each class."""
    groups: tuple[tuple[int, ...], ...]
    """[group][class]: workers that hold a stage together, at least one in every group."""
    times: Callable[[int], StageTimes]
    """Gives the times by rows of a micro-batch. A pure function; a search calls it once for each number of rows."""
    max_stages: int | None = None
    """The most stages of one replica; None: no limit."""
    usable: tuple[bool, ...] | None = None
    """Whether each group may be used; None: all may. A search over fewer groups keeps the same indices in this way."""

    def restricted(self, *, single_workers: bool = False, max_stages: int | None = None) -> ReplicaProblem:
        """The problem with fewer choices: only stages of one worker, or fewer stages."""
        usable = self.usable or (True,) * len(self.groups)
        if single_workers:
            usable = tuple(may and sum(group) == 1 for may, group in zip(usable, self.groups, strict=True))
        limits = [limit for limit in (self.max_stages, max_stages) if limit is not None]
        return replace(self, usable=usable, max_stages=min(limits, default=None))

    def without_whole_stages(self) -> ReplicaProblem:
        """The problem in which a replica has at least two stages."""

        def times(rows: int) -> StageTimes:
            given = self.times(rows)
            work_s = given.work_s.copy()
            work_s[:, 0, self.num_blocks] = np.inf
            return replace(given, work_s=work_s)

        return replace(self, times=times)

    def by_bounds(self) -> ReplicaProblem:
        """The problem in which lower bounds count as exact times."""

        def times(rows: int) -> StageTimes:
            return replace(self.times(rows), exact_s=None)

        return replace(self, times=times)

    @property
    def stage_limit(self) -> int:
        """The most stages that a replica can have."""
        limit = self.num_blocks if self.max_stages is None else self.max_stages
        return min(limit, self.num_blocks, sum(self.counts))

    def compact(self) -> tuple[ReplicaProblem, I64]:
        """Remove the groups that may not be used or for which there are not enough workers.

        Returns:
            The problem, which caches its times; and the former index of each of its groups.
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
