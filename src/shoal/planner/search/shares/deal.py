"""Dealing pieces out one by one to whoever would be done first, which leaves the slowest as quick as it can be.

Source: Gross's greedy for separable convex resource allocation (Ibaraki and Katoh, Resource Allocation Problems,
1988).
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace


def deal(
    num_atoms: int, costs: tuple[tuple[float, float], ...], *, at_least: int, caps: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """How many pieces each member gets, one by one, the member that would be done first.

    Args:
        num_atoms: pieces to be dealt out.
        costs: of each member: seconds for each piece, and once.
        at_least: pieces that every member gets.
        caps: pieces of each member at most, enough in all; None: no limit.
    """
    most = [num_atoms] * len(costs) if caps is None else caps
    counts = _first_dealt(num_atoms, costs, at_least=at_least, most=most)
    waiting = [
        (fixed + each * (counts[index] + 1), index)
        for index, (each, fixed) in enumerate(costs)
        if counts[index] < most[index]
    ]
    heapify(waiting)
    for _ in range(num_atoms - sum(counts)):
        index = waiting[0][1]
        counts[index] += 1
        if counts[index] == most[index]:
            heappop(waiting)
        else:
            each, fixed = costs[index]
            heapreplace(waiting, (fixed + each * (counts[index] + 1), index))
    return tuple(counts)


def _first_dealt(
    num_atoms: int, costs: Sequence[tuple[float, float]], *, at_least: int, most: Sequence[int]
) -> list[int]:
    """All but about one atom a member of what they get when dealt one by one: what can be done by a time by which
    there are not yet too many, found by bisection."""

    def done_by(time_s: float) -> list[int]:
        return [
            min(cap, max(at_least, int(min(num_atoms, (time_s - fixed) / each)))) if each else at_least
            for (each, fixed), cap in zip(costs, most, strict=True)
        ]

    low_s, high_s = 0.0, max(fixed + each * num_atoms for each, fixed in costs)
    counts = [at_least] * len(costs)
    while num_atoms - sum(counts) > len(costs) and low_s < (middle_s := (low_s + high_s) / 2) < high_s:
        done = done_by(middle_s)
        if sum(done) > num_atoms:
            high_s = middle_s
        else:
            low_s, counts = middle_s, done
    return counts
