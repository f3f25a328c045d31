"""The choice of devices for an ONNX graph on one machine: see `planner.device_options`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from shoal.planner.choice.goal import Goal
from shoal.planner.device_options import DeviceOption, choose_option
from shoal.planner.graph_choice.choice import GraphChoice, GraphSplit
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.graph_choice.fleet_choose import choose_graph_fleet

GraphDeviceOption = DeviceOption[GraphChoice[GraphSplit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedFleet:
    """A fleet of a machine's workers that may be used together."""

    what: str
    """The workers, in words."""
    fleet: GraphFleet


def choose_devices(
    processor: GraphChoice[GraphSplit] | None, offered: Sequence[OfferedFleet], goal: Goal
) -> tuple[GraphDeviceOption, ...]:
    """Compare the ways to use a machine, the processor alone first; exactly one is taken.

    Args:
        processor: the best split over the processor alone; None: it must not compute alone.
        offered: fleets with devices.
        goal: the goal by which ways are compared.

    Raises:
        CapacityError, ConfigError: the error of the last way, if none fits or none meets the latency target.
    """

    def of_fleet(fleet: GraphFleet) -> GraphChoice[GraphSplit]:
        return choose_graph_fleet(fleet, goal)

    ways: list[tuple[str, Callable[[], GraphChoice[GraphSplit]]]] = []
    if processor is not None:
        ways.append(("the processor alone", lambda: processor))
    ways += [(one.what, partial(of_fleet, one.fleet)) for one in offered]
    return choose_option(ways, lambda choice: choice.best.score(goal), goal)
