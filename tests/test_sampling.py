"""Which cases of a sweep are in its sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tests.sampling import in_turn, sample_items


@dataclass
class Item:
    """A collected case, as far as sampling looks at it."""

    nodeid: str
    every: int | None = None

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        assert name == "sample"
        return None if self.every is None else pytest.mark.sample(every=self.every).mark


def kept_and_left(items: Sequence[Item]) -> tuple[list[str], list[str]]:
    kept = list(items)
    left = sample_items(kept)  # type: ignore[arg-type]
    return [item.nodeid for item in kept], [item.nodeid for item in left]


def test_every_nth_case_of_each_test_is_kept_in_order() -> None:
    items = [Item(f"f.py::test_{name}[{case}]", 3) for case in range(4) for name in "ab"]
    kept, left = kept_and_left(items)
    assert kept == ["f.py::test_a[0]", "f.py::test_b[0]", "f.py::test_a[3]", "f.py::test_b[3]"]
    assert sorted(kept + left) == sorted(item.nodeid for item in items)


def test_what_is_not_marked_is_kept_and_so_is_a_case_asked_for_alone() -> None:
    assert kept_and_left([Item(f"f.py::test[{case}]") for case in range(5)])[1] == []
    assert kept_and_left([Item("f.py::test[7]", 4)]) == (["f.py::test[7]"], [])


def test_a_sample_of_pairs_has_both_in_turn() -> None:
    pairs = in_turn("abc", (0, 1))
    assert sorted(pairs) == [(letter, number) for letter in "abc" for number in (0, 1)]
    assert pairs[::2] == [("a", 0), ("b", 1), ("c", 0)]
