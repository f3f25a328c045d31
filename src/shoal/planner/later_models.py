"""Machines as a model uses them that others will follow: with room left for those.

Models of one server are planned one after the other. The first one would make copies on every machine, and the last one
would find memory only in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from shoal.errors import CapacityError, ConfigError
from shoal.planner.what_if import FleetT

ChoiceT = TypeVar("ChoiceT")


def choose_with_room(
    fleet: FleetT,
    later_bytes: Sequence[int],
    choose: Callable[[FleetT], ChoiceT],
    score: Callable[[ChoiceT], float],
) -> ChoiceT:
    """The best choice that leaves room for further models or, if none does, the best one.

    Args:
        fleet: the machines.
        later_bytes: weights of each further model.
        choose: makes the choice for a fleet. Raises CapacityError, ConfigError.
        score: of a choice; the higher, the better.

    Raises:
        CapacityError, ConfigError: as `choose`.
    """
    found: list[ChoiceT] = []
    for one in leaving_room(fleet, later_bytes):
        with suppress(CapacityError, ConfigError):
            found.append(choose(one))
    return max(found, key=score) if found else choose(fleet)


def leaving_room(fleet: FleetT, later_bytes: Sequence[int]) -> list[FleetT]:
    """The fleet with less memory, in two ways that leave room for further models.

    Every machine leaves room for the largest of them; or those with the most memory are left to them, as many as hold
    each of them whole.
    """
    if not later_bytes:
        return []
    sizes = [one.memory_bytes for one in fleet.classes]
    ways = [[max(0, size - max(later_bytes)) for size in sizes]]
    taken = _taken(sizes, later_bytes)
    if taken is not None:
        ways.append([0 if index in taken else size for index, size in enumerate(sizes)])
    return [_with_memory(fleet, way) for way in ways]


def _taken(sizes: Sequence[int], later_bytes: Sequence[int]) -> set[int] | None:
    """Machines that hold all further models, the largest first, in as few of the roomiest as that takes; None: they
    do not fit so."""
    rest, taken = list(sizes), set[int]()
    for size in sorted(later_bytes, reverse=True):
        fitting = [index for index, room in enumerate(rest) if room >= size]
        if not fitting:
            return None
        best = max(fitting, key=lambda index: (index in taken, rest[index]))
        taken.add(best)
        rest[best] -= size
    return taken


def _with_memory(fleet: FleetT, sizes: Sequence[int]) -> FleetT:
    classes = (replace(one, memory_bytes=size) for one, size in zip(fleet.classes, sizes, strict=True))
    return replace(fleet, classes=tuple(classes))
