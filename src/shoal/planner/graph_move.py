"""New cuts of a graph whose workers have changed speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from shoal.planner.graph_cut import CutPlace, cut_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Recut:
    """New boundaries for the same workers."""

    boundaries: tuple[int, ...]
    """The first node of each stage but the first."""
    stage_s: tuple[float, ...]
    """Expected seconds of each stage for the same batches."""


def recut(
    node_s: Sequence[float], places: Sequence[CutPlace], boundaries: Sequence[int], stage_s: Sequence[float]
) -> Recut:
    """Move nodes from slow stages to fast ones.

    Args:
        node_s: seconds of each node, in any unit.
        places: the places where the graph can be cut, nodes ascending.
        boundaries: the present boundaries, see `Recut`.
        stage_s: present seconds of each stage for the same batches.
    """
    speeds = [work / seconds for work, seconds in zip(_work(node_s, boundaries), stage_s, strict=True)]
    on_fastest_s = [seconds / max(speeds) for seconds in node_s]  # a cut's cost is in seconds
    moved = cut_stages(on_fastest_s, places, len(stage_s), shares=speeds)
    expected = (work / speed for work, speed in zip(_work(node_s, moved), speeds, strict=True))
    return Recut(boundaries=moved, stage_s=tuple(expected))


def _work(node_s: Sequence[float], boundaries: Sequence[int]) -> list[float]:
    """The work of each stage: its seconds on a worker of speed 1."""
    return [sum(node_s[first:last]) for first, last in pairwise((0, *boundaries, len(node_s)))]
