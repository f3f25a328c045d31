"""What the planner would choose if the machines were others: one more, one fewer, other links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never, get_args

from shoal.errors import ConfigError
from shoal.planner.choice.choose import PlanChoice, choose
from shoal.planner.choice.goal import Goal
from shoal.planner.choice.model_sizes import ModelSizes
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet, LinkSpeed, WorkerClass
from shoal.protocol.stage_config import Precision

ChangeKind = Literal["add", "remove", "links"]
CHANGES: tuple[ChangeKind, ...] = get_args(ChangeKind)
GIGABIT = LinkSpeed(latency_s=200e-6, bytes_per_s=117e6)
"""A second machine's link where nothing was measured. Source: Ethernet of 1 Gbit/s less the headers of TCP/IP (94 %);
the latency is a judgment for a switch and two kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Machines other than those that were planned for."""

    kind: ChangeKind
    """`add`: one more like `like`; `remove`: one of them fewer; `links`: all links `factor` times as fast"""
    like: str = ""
    """name of a class of workers"""
    factor: float = 0.5
    """of the rate of all links, > 0"""
    link: LinkSpeed = GIGABIT
    """of one more machine beside a lone one"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuestion:
    """All that `choose` is asked, to be asked again."""

    fleets: tuple[Fleet, ...]
    """what can be made of the machines; a plan uses one of them"""
    model: ModelSizes
    workload: Workload
    goal: Goal
    precisions: tuple[Precision, ...]
    is_one_machine: bool
    """whether all workers of a fleet share one machine, in the place of being one each"""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Kinds of machines that a change may name; of one machine, its own."""
        if self.is_one_machine:
            return ("this machine",)
        return tuple(one.name for one in self.fleets[0].classes)

    def answer(self) -> PlanChoice:
        """What is best. Raises CapacityError, ConfigError: nothing is."""
        return choose(self.fleets, self.model, self.workload, self.goal, self.precisions)

    def changed(self, change: Change) -> PlanQuestion:
        """The question for other machines. Raises ConfigError: there are no such ones."""
        if change.kind != "links" and change.like not in self.class_names:
            names = ", ".join(map(repr, self.class_names))
            raise ConfigError(f"there is no machine {change.like!r} to add or to take away: there are {names}")
        return replace(self, fleets=tuple(self._changed(fleet, change) for fleet in self.fleets))

    def _changed(self, fleet: Fleet, change: Change) -> Fleet:
        match change.kind:
            case "links":
                return replace(
                    fleet, links=_scaled(fleet.links, change.factor), sums=_scaled(fleet.sums, change.factor)
                )
            case "add":
                return _with_twin(fleet, change.link) if self.is_one_machine else _counted(fleet, change.like, 1)
            case "remove":
                if self.is_one_machine:
                    raise ConfigError("this is the only machine: without it there is nothing to plan for")
                return _counted(fleet, change.like, -1)
            case _:
                assert_never(change.kind)


def _scaled(links: Sequence[Sequence[LinkSpeed]], factor: float) -> tuple[tuple[LinkSpeed, ...], ...]:
    return tuple(tuple(replace(one, bytes_per_s=one.bytes_per_s * factor) for one in row) for row in links)


def _counted(fleet: Fleet, name: str, more: int) -> Fleet:
    """So many more workers of a class; one that has none left goes."""
    classes = [replace(one, count=one.count + more * (one.name == name)) for one in fleet.classes]
    kept = [index for index, one in enumerate(classes) if one.count > 0]
    if not kept:
        raise ConfigError("this is the only machine: without it there is nothing to plan for")

    def of_kept(links: Sequence[Sequence[LinkSpeed]]) -> tuple[tuple[LinkSpeed, ...], ...]:
        return tuple(tuple(links[row][column] for column in kept) for row in kept)

    return replace(
        fleet, classes=tuple(classes[index] for index in kept), links=of_kept(fleet.links), sums=of_kept(fleet.sums)
    )


def _with_twin(fleet: Fleet, link: LinkSpeed) -> Fleet:
    """The machine twice, with a link between the two. A sum over both takes a message each way at once: one hop."""
    twins: tuple[WorkerClass, ...] = tuple(replace(one, name=f"{one.name} of one more") for one in fleet.classes)

    def doubled(links: Sequence[Sequence[LinkSpeed]]) -> tuple[tuple[LinkSpeed, ...], ...]:
        across = (link,) * len(fleet.classes)
        return tuple((*row, *across) for row in links) + tuple((*across, *row) for row in links)

    return replace(fleet, classes=(*fleet.classes, *twins), links=doubled(fleet.links), sums=doubled(fleet.sums))
