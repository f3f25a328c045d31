"""What the planner would choose on other machines: one more, one fewer, other links."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal, TypeVar, assert_never

from shoal.errors import ConfigError
from shoal.planner.choice.choose import PlanChoice, choose
from shoal.planner.choice.costs.model_sizes import ModelSizes
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet, LinkSpeed
from shoal.protocol.stage_config import Precision

THIS_MACHINE = "this machine"
Links = tuple[tuple[LinkSpeed, ...], ...]
"""Links [from class][to class]."""
FleetT = TypeVar("FleetT", Fleet, GraphFleet)
ChangeKind = Literal["add", "remove", "links"]
GIGABIT = LinkSpeed(latency_s=200e-6, bytes_per_s=117e6)
"""The link of a second machine if nothing was measured. Source: Ethernet of 1 Gbit/s minus the headers of TCP/IP (94
%); the latency is a judgment for a switch and two kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the machines that were planned for."""

    kind: ChangeKind
    """`add`: one more machine like `like`; `remove`: one fewer; `links`: all links are `factor` times as fast."""
    like: str = ""
    """The name of a class of workers."""
    factor: float = 0.5
    """The factor for the bandwidth of all links, > 0."""
    link: LinkSpeed = GIGABIT
    """The link between a lone machine and one more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuestion:
    """The input of `choose`, kept so that the choice can be repeated."""

    fleets: tuple[Fleet, ...]
    """The fleets that the machines can form; a plan uses one of them."""
    model: ModelSizes
    workload: Workload
    goal: Goal
    precisions: tuple[Precision, ...]
    is_one_machine: bool
    """Whether all workers of a fleet share one machine; otherwise each is on a machine of its own."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of machines that a change may use."""
        return (THIS_MACHINE,) if self.is_one_machine else tuple(one.name for one in self.fleets[0].classes)

    def answer(self) -> PlanChoice:
        """Choose the best plan. Raises CapacityError or ConfigError if there is none."""
        return choose(self.fleets, self.model, self.workload, self.goal, self.precisions)

    def changed(self, change: Change) -> PlanQuestion:
        """The question after a change of the machines. Raises ConfigError if the change names unknown ones."""
        check_named(change, self.class_names)
        fleets = (changed_fleet(fleet, change, is_one_machine=self.is_one_machine) for fleet in self.fleets)
        return replace(self, fleets=tuple(fleets))


def check_named(change: Change, names: Sequence[str]) -> None:
    """Check that a change names a known machine. Raises ConfigError."""
    if change.kind != "links" and change.like not in names:
        there = ", ".join(map(repr, names))
        raise ConfigError(f"there is no machine {change.like!r} to add or to take away: there are {there}")


def changed_fleet(fleet: FleetT, change: Change, *, is_one_machine: bool) -> FleetT:
    """The fleet after a change of the machines.

    Args:
        fleet: the fleet for a language model or a graph.
        change: the change; it names a class of the fleet, or the only machine.
        is_one_machine: whether all workers share one machine.

    Raises:
        ConfigError: the only machine would be removed.
    """
    match change.kind:
        case "links":
            return _with_links(fleet, lambda links: _scaled(links, change.factor))
        case "add":
            return _with_twin(fleet, change.link) if is_one_machine else _counted(fleet, change.like, 1, change.link)
        case "remove":
            if is_one_machine:
                raise ConfigError("this is the only machine: without it there is nothing to plan for")
            return _counted(fleet, change.like, -1, change.link)
        case _:
            assert_never(change.kind)


def _with_links(fleet: FleetT, change: Callable[[Links], Links]) -> FleetT:
    """The fleet with changed links and, for a language model, changed sums over shards."""
    if isinstance(fleet, Fleet):
        return replace(fleet, links=change(fleet.links), sums=change(fleet.sums))
    return replace(fleet, links=change(fleet.links))


def _with_classes(fleet: FleetT, change: Callable[[Sequence[Any]], Sequence[Any]]) -> FleetT:
    return replace(fleet, classes=tuple(change(fleet.classes)))


def _scaled(links: Links, factor: float) -> Links:
    return tuple(tuple(replace(one, bytes_per_s=one.bytes_per_s * factor) for one in row) for row in links)


def _counted(fleet: FleetT, name: str, more: int, link: LinkSpeed) -> FleetT:
    """The fleet with `more` workers of a class; a class without workers is removed. `link`: see `Change`."""
    if isinstance(fleet, GraphFleet) and more > 0:
        fleet = _with_room(fleet, name, link)
    changed = max(index for index, one in enumerate(fleet.classes) if one.name == name)
    counts = [one.count + more * (index == changed) for index, one in enumerate(fleet.classes)]
    kept = [index for index, count in enumerate(counts) if count > 0]
    if not kept:
        raise ConfigError("this is the only machine: without it there is nothing to plan for")

    def of_kept(links: Links) -> Links:
        return tuple(tuple(links[row][column] for column in kept) for row in kept)

    counted = _with_classes(fleet, lambda classes: [replace(classes[index], count=counts[index]) for index in kept])
    if isinstance(counted, GraphFleet):
        near = counted.near
        counted = replace(counted, near=frozenset(place for place, index in enumerate(kept) if index in near))
    return _with_links(counted, of_kept)


def _with_room(fleet: GraphFleet, name: str, link: LinkSpeed) -> GraphFleet:
    """Add an empty class like the head's own machine if the name means nothing else, since others are farther away.

    Args:
        fleet: the machines.
        name: of a class.
        link: between two such machines, if the fleet knows none.
    """
    own = max(index for index, one in enumerate(fleet.classes) if one.name == name)
    if own not in fleet.near:
        return fleet
    known = fleet.links[own][own]
    across = known if 0.0 < known.latency_s < inf else link  # else it stands for none
    rows = [(*row, across if index == own else row[own]) for index, row in enumerate(fleet.links)]
    classes = (*fleet.classes, replace(fleet.classes[own], count=0))
    return replace(fleet, classes=classes, links=(*rows, (*fleet.links[own][:own], across, *rows[own][own + 1 :])))


def _with_twin(fleet: FleetT, link: LinkSpeed) -> FleetT:
    """The machine twice, with a link between the two. A sum over both is one hop, with messages both ways at once."""
    across = (link,) * len(fleet.classes)

    def doubled(links: Links) -> Links:
        return tuple((*row, *across) for row in links) + tuple((*across, *row) for row in links)

    def with_twins(classes: Sequence[Any]) -> Sequence[Any]:
        return [*classes, *(replace(one, name=f"{one.name} of one more") for one in classes)]

    return _with_links(_with_classes(fleet, with_twins), doubled)
