"""Whether devices of one machine are worth using beside its processor, or in its place, or not at all.

The processor alone is planned as ever, as one worker or several. A device alone is one worker. Together, processor and
devices are a fleet of unlike workers, with the speeds that they were measured to have while all of them compute: some
devices share the processor's cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.goal import Goal, choose_simplest
from shoal.planner.graph_choice.choice import GraphChoice, GraphSplit
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.graph_choice.fleet_choose import choose_graph_fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOption:
    """One way to use the devices that there are."""

    what: str
    """which workers there are, in words"""
    choice: GraphChoice[GraphSplit] | None
    """the best split of these workers; None: there is none"""
    reason: str = ""
    """why it was not taken; empty: it was taken"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedFleet:
    """Workers of a machine that may be used together."""

    what: str
    """which, in words"""
    fleet: GraphFleet


def choose_devices(
    processor: GraphChoice[GraphSplit] | None, offered: Sequence[OfferedFleet], goal: Goal
) -> tuple[DeviceOption, ...]:
    """The ways to use a machine, the processor alone first; exactly one of them is taken.

    Args:
        processor: the best split over the processor alone; None: it is not to compute alone.
        offered: fleets with devices.
        goal: what to choose by.

    Raises:
        CapacityError, ConfigError: nothing fits, or nothing meets the latency target; of the last one.
    """
    options = [] if processor is None else [DeviceOption(what="the processor alone", choice=processor)]
    failure: CapacityError | ConfigError | None = None
    for one in offered:
        try:
            options.append(DeviceOption(what=one.what, choice=choose_graph_fleet(one.fleet, goal)))
        except (CapacityError, ConfigError) as error:
            failure = error
            options.append(DeviceOption(what=one.what, choice=None, reason=str(error)))
    found = [option for option in options if option.choice is not None]
    if not found:
        assert failure is not None
        raise failure
    best = choose_simplest(found, lambda option: _score(option, goal))
    return tuple(_with_reason(option, best, goal) for option in options)


def _score(option: DeviceOption, goal: Goal) -> float:
    assert option.choice is not None
    return option.choice.best.score(goal)


def _with_reason(option: DeviceOption, best: DeviceOption, goal: Goal) -> DeviceOption:
    if option is best or option.choice is None:
        return option
    loss = 1.0 - _score(option, goal) / _score(best, goal)
    reason = f"{loss:.0%} worse by {goal.objective}" if loss > 0 else "hardly better, and less simple"
    return DeviceOption(what=option.what, choice=option.choice, reason=reason)
