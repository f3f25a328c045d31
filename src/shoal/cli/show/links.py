"""Links between machines as they were measured or described, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from shoal.core.plan.placement import WorkerPlacement

if TYPE_CHECKING:  # what a split said by hand does without
    from shoal.planner.speeds.speeds import LinkSpeed


class LinkedFleet(Protocol):
    """Classes of workers and what is between them."""

    @property
    def links(self) -> Sequence[Sequence[LinkSpeed]]:
        """[from class][to class]; the diagonal is for two workers of one class."""
        ...


def links_between(fleet: LinkedFleet, places: Sequence[Sequence[WorkerPlacement]]) -> list[dict[str, Any]]:
    """Each link once: from which machines to which (None: this one), its latency and its rate.

    `places`: of the workers of each class.
    """
    machines = [list(dict.fromkeys(place.machine for place in of_class)) for of_class in places]
    return [
        {
            "from": machines[row],
            "to": machines[column],
            "latency_s": link.latency_s,
            "bytes_per_s": link.bytes_per_s,
        }
        for row, of_row in enumerate(fleet.links)
        for column, link in enumerate(of_row)
    ]
