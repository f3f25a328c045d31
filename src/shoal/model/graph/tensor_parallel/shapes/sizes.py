"""Sizes of dimensions as products of a number and symbols, to follow reshapes without knowing the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

NUMBER_MARK = "#"
"""End of names that stand for numbers which a graph computes, not for the length of an axis."""


@dataclass(frozen=True, slots=True)
class Size:
    """`number` times the named sizes, such as 12 * batch."""

    number: int
    names: tuple[str, ...] = ()
    """Sorted; a name stands once for each power."""

    @property
    def fixed(self) -> int | None:
        """The size if it contains no name; otherwise None."""
        return None if self.names else self.number

    @property
    def is_length(self) -> bool:
        """Whether the size cannot be negative, unlike a number that is known only in a run."""
        return self.number >= 0 and not any(name.endswith(NUMBER_MARK) for name in self.names)

    def times(self, other: Size) -> Size:
        """The product."""
        return Size(self.number * other.number, tuple(sorted((*self.names, *other.names))))

    def over(self, other: Size) -> Size | None:
        """The quotient; None if it is not certain to be a whole number."""
        if other.number == 0 or self.number % other.number or Counter(other.names) - Counter(self.names):
            return None
        left = Counter(self.names) - Counter(other.names)
        return Size(self.number // other.number, tuple(sorted(left.elements())))


ONE = Size(1)
Shape = tuple[Size, ...]


def product(sizes: Iterable[Size]) -> Size:
    """The product of all; 1 for none."""
    total = ONE
    for size in sizes:
        total = total.times(size)
    return total
