"""How many of some indivisible things each worker gets when their shares do not divide evenly."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from shoal.errors import CapacityError, ConfigError

_BISECTIONS = 64
"""Halvings of the first guess at the common load; beyond the 53 bits of a double there is nothing to halve."""


def round_shares(
    num_atoms: int, shares: Sequence[float], *, at_least: int = 0, caps: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Atoms of each worker, such that the most loaded one (atoms / share) has as little as possible.

    Exact, in rational numbers: the atoms go one by one to the worker whose load with it would be least, those of equal
    load to the smaller share, then to the lower number. Only the last few are dealt that way, the others follow from
    the load that all have in common.

    Args:
        num_atoms: to be dealt out, all of them.
        shares: of each worker, positive, in any unit.
        at_least: atoms that every worker gets, whatever its share.
        caps: most atoms that each worker may get; None: no limit.

    Raises:
        CapacityError: the caps do not hold all atoms, or one of them not at_least.
        ConfigError: fewer atoms than at_least for each, or a share that is not positive.

    Source: D'Hondt's rule, which minimizes the largest ratio of seats to votes; Gross's greedy for separable convex
    costs says that it stays so under bounds (Ibaraki and Katoh, Resource Allocation Problems, 1988).
    """
    highs = [num_atoms] * len(shares) if caps is None else [min(cap, num_atoms) for cap in caps]
    _check(num_atoms, shares, at_least, highs)
    exact = [Fraction(share) for share in shares]
    counts = _certain_counts(num_atoms, shares, at_least, highs)
    for _ in range(num_atoms - sum(counts)):
        loads = [(Fraction(n + 1) / exact[i], exact[i], i) for i, n in enumerate(counts) if n < highs[i]]
        counts[min(loads)[2]] += 1
    return tuple(counts)


def ranges_of(counts: Sequence[int], *, atom: int = 1, total: int | None = None) -> tuple[tuple[int, int], ...]:
    """Contiguous [first, last) ranges of `counts` atoms each, in units of which `atom` make one; the last may be short.

    Args:
        counts: atoms of each worker.
        atom: units in an atom.
        total: units in all, where the last atom is not whole.
    """
    ranges: list[tuple[int, int]] = []
    first = 0
    limit = sum(counts) * atom if total is None else total
    for count in counts:
        last = min(first + count * atom, limit)
        ranges.append((first, last))
        first = last
    return tuple(ranges)


def _check(num_atoms: int, shares: Sequence[float], at_least: int, highs: Sequence[int]) -> None:
    if any(share <= 0 for share in shares):
        raise ConfigError(f"shares must be positive, but they are {':'.join(map(str, shares))}")
    if num_atoms < at_least * len(shares):
        raise ConfigError(f"{num_atoms} parts are too few for {len(shares)} workers with at least {at_least} each")
    if min(highs) < at_least or sum(highs) < num_atoms:
        raise CapacityError(f"{len(shares)} workers with room for {sum(highs)} parts cannot hold {num_atoms}")


def _certain_counts(num_atoms: int, shares: Sequence[float], at_least: int, highs: Sequence[int]) -> list[int]:
    """Counts at the largest common load that needs no more than num_atoms, less one where that may be a rounding."""

    def counts_at(load: float) -> list[int]:
        return [min(high, max(at_least, int(load * share))) for share, high in zip(shares, highs, strict=True)]

    low, high = 0.0, (num_atoms + 1) / min(shares)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if sum(counts_at(middle)) <= num_atoms:
            low = middle
        else:
            high = middle
    return [max(at_least, count - 1) for count in counts_at(low)]
