"""What would best be done with machines that have joined, whatever runs on them: measured, and planned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from shoal.planner.choice.extend import ExtendedPlan  # with all that searches

ReplicaT_co = TypeVar("ReplicaT_co", covariant=True)
ReplicaT = TypeVar("ReplicaT")


class PlacedMachines(Protocol):
    """`PlacedFleet` or `PlacedGraphFleet`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        ...


PlacedT = TypeVar("PlacedT", bound=PlacedMachines)


class Extend(Protocol[ReplicaT_co]):
    """Planning with machines that are idle."""

    def __call__(
        self, present: Any, placed: Any, *, idle: Sequence[int], open_replicas: Collection[int]
    ) -> ExtendedPlan[ReplicaT_co] | None:
        """The best use of idle machines; None where none pays.

        Args:
            present: replicas that run, as they were chosen.
            placed: all machines, of one worker each.
            idle: classes of the idle ones.
            open_replicas: indexes of those that may be cut anew.
        """
        ...


class Growth(Generic[PlacedT, ReplicaT]):
    """Follows the machines that a chosen plan runs on. Belongs to the thread that watches them."""

    def __init__(
        self,
        present: Sequence[Any],
        placed: PlacedT,
        measure: Callable[[PlacedT], PlacedT],
        extend: Extend[ReplicaT],
    ) -> None:
        """
        Args:
            present: replicas that run, as they were chosen.
            placed: the machines that they were chosen from.
            measure: those that are known, and after them those that have joined since. Raises ShoalError.
            extend: plans.
        """
        self._present = tuple(present)
        self._placed: PlacedT = placed
        self._measure, self._extend = measure, extend

    def find(self, living: Set[str]) -> ExtendedPlan[ReplicaT] | None:
        """Measure what is new; a change that pays, if there is one. `living`: names of machines that are there.

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
        """A change that was found runs now."""
        self._present = made.extension.candidate.replicas
