"""Measuring and planning of machines that have joined, for any kind of model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from shoal.planner.choice.extend import ExtendedPlan  # imports all that searches

ReplicaT_co = TypeVar("ReplicaT_co", covariant=True)
ReplicaT = TypeVar("ReplicaT")


class PlacedMachines(Protocol):
    """`PlacedFleet` or `PlacedGraphFleet`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        ...


PlacedT = TypeVar("PlacedT", bound=PlacedMachines)


class Extend(Protocol[ReplicaT_co]):
    """A function that plans with idle machines."""

    def __call__(
        self, present: Any, placed: Any, *, idle: Sequence[int], open_replicas: Collection[int]
    ) -> ExtendedPlan[ReplicaT_co] | None:
        """Find the best use of idle machines; None if no use pays.

        Args:
            present: the running replicas, as they were chosen.
            placed: all machines, with one worker each.
            idle: classes of the idle machines.
            open_replicas: indices of replicas that may be split again.
        """
        ...


class Growth(Generic[PlacedT, ReplicaT]):
    """Plans for machines that join those of a chosen plan. Only the thread that watches machines may use it."""

    def __init__(
        self,
        present: Sequence[Any],
        placed: PlacedT,
        measure: Callable[[PlacedT], PlacedT],
        extend: Extend[ReplicaT],
    ) -> None:
        """
        Args:
            present: the running replicas, as they were chosen.
            placed: the machines from which they were chosen.
            measure: gives the known machines followed by those that have joined since. Raises ShoalError.
            extend: plans with idle machines.
        """
        self._present = tuple(present)
        self._placed: PlacedT = placed
        self._measure, self._extend = measure, extend

    def find(self, living: Set[str]) -> ExtendedPlan[ReplicaT] | None:
        """Measure new machines, and return a change that pays, or None. `living`: the names of machines that are there.

        Raises:
            ShoalError: a machine cannot be measured.
        """
        self._placed = self._measure(self._placed)
        names = self._placed.names
        used_by = [{member for stage in replica for member in stage.group.members} for replica in self._present]
        used = set().union(*used_by)
        return self._extend(
            self._present,
            self._placed,
            idle=[index for index, name in enumerate(names) if name in living and index not in used],
            open_replicas=[
                index for index, own in enumerate(used_by) if all(names[member] in living for member in own)
            ],
        )

    def adopt(self, made: ExtendedPlan[ReplicaT]) -> None:
        """Note that a change that was found has been made."""
        self._present = made.extension.candidate.replicas
