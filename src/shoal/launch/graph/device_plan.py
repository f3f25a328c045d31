"""`--split auto` for a graph on a machine with devices: all are measured, and those that help are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import CapacityError, ConfigError, ModelLoadError, WorkerLost
from shoal.launch.devices import OfferedDevice, cannot_be_used
from shoal.machines.placed_fleet import PlacedGraphFleet
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.fleet import make_graph_fleet
from shoal.measure.graph.measurer import GraphMeasurer
from shoal.measure.graph.profile import GraphSetting, measure_node_times, measure_places, measure_whole
from shoal.measure.measuring import Measuring
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.planner.choice.goal import Goal
from shoal.planner.device_options import HOPELESS, named_together, too_slow
from shoal.planner.graph_choice.choice import GraphChoice, GraphSplit
from shoal.planner.graph_choice.device_choose import GraphDeviceOption, OfferedFleet, choose_devices
from shoal.planner.graph_choice.fleet import GraphWorkerClass
from shoal.planner.graph_cut import LINK


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpeeds:
    """Measurements of the devices."""

    placed: tuple[PlacedGraphFleet, ...]
    """Fleets of each device alone, then of all useful devices with the processor, or with each other."""
    left_out: tuple[GraphDeviceOption, ...]
    """Devices that cannot be used, or are far too slow."""
    notes: tuple[str, ...]
    """Notes for the user about how devices compute the graph, one line each."""


def measure_devices(
    setting: GraphSetting,
    measurer: GraphMeasurer,
    measuring: Measuring,
    offered: Sequence[OfferedDevice],
    *,
    with_processor: bool,
) -> DeviceSpeeds:
    """Measure each device alone, then all useful devices and the processor together.

    Args:
        setting: the graph and a micro-batch.
        measurer: measures that graph with that micro-batch.
        measuring: how to measure.
        offered: the devices.
        with_processor: whether the processor may compute as well.

    Raises:
        ConfigError, CapacityError, ModelLoadError, WorkerLost: measuring the processor failed.
    """
    threads = measuring.threads or len(setting.cores)
    processor = WorkerPlacement(threads=threads, cores=setting.cores)
    nodes = measure_node_times(setting, measurer, measuring)
    whole = measure_whole(setting, measurer, measuring)
    makes = _FleetMaker(setting, nodes, whole.message_s, {one.device.name: one.memory_bytes for one in offered})
    alone: list[PlacedGraphFleet] = []
    useful: list[WorkerPlacement] = []
    left_out: list[GraphDeviceOption] = []
    notes: list[str] = []
    for one in offered:
        place = WorkerPlacement(threads=threads, cores=(), device=one.device, python=one.python)
        try:
            times = measure_places(setting, measurer, measuring, [place])
        except (ConfigError, CapacityError, ModelLoadError, WorkerLost) as error:
            left_out.append(cannot_be_used(one.device, error))
            continue
        notes += times.notes
        alone.append(makes.fleet([place], times.compute_s))
        if with_processor and times.compute_s[0] > HOPELESS * whole.lone_compute_s:
            left_out.append(too_slow(one.device.name, times.compute_s[0] / whole.lone_compute_s))
        else:
            useful.append(place)
    together = [*([processor] if with_processor else []), *useful]
    if useful and len(together) > 1:
        times = measure_places(setting, measurer, measuring, together)
        alone.append(makes.fleet(together, times.compute_s))
    return DeviceSpeeds(placed=tuple(alone), left_out=tuple(left_out), notes=tuple(dict.fromkeys(notes)))


class _FleetMaker:
    """Makes fleets of one machine's workers, assuming the same ratios between nodes as on the processor."""

    def __init__(
        self, setting: GraphSetting, nodes: NodeTimes, message_s: float, memory: dict[str, int | None]
    ) -> None:
        self._setting, self._nodes, self._message_s, self._memory = setting, nodes, message_s, memory

    def fleet(self, places: Sequence[WorkerPlacement], compute_s: Sequence[float]) -> PlacedGraphFleet:
        classes = [self._class(place, seconds) for place, seconds in zip(places, compute_s, strict=True)]
        links = ((LINK,) * len(places),) * len(places)
        fleet = make_graph_fleet(
            self._setting, self._nodes, classes, links, message_s=self._message_s, near=range(len(classes))
        )
        fleet = replace(fleet, shard_work=lambda num_shards: None)  # unlike devices wait for each other at every sum
        return PlacedGraphFleet(fleet=fleet, places=tuple((place,) for place in places))

    def _class(self, place: WorkerPlacement, seconds: float) -> GraphWorkerClass:
        scale = seconds / (sum(self._nodes.seconds) or 1.0)
        name = place.device.name if place.device else "processor"
        return GraphWorkerClass(
            name=name,
            count=1,
            threads=place.threads,
            memory_bytes=self._memory.get(name) or free_memory_bytes(),
            node_s=tuple(scale * one for one in self._nodes.seconds),
        )


def choose_placed(
    processor: GraphChoice[GraphSplit] | None, speeds: DeviceSpeeds, goal: Goal
) -> tuple[GraphDeviceOption, PlacedGraphFleet | None, tuple[GraphDeviceOption, ...]]:
    """The chosen option, its workers (None: the processor alone), and all options.

    Raises: as `choose_devices`; ConfigError if no device can be used and the processor must not be.
    """
    if processor is None and not speeds.placed:
        first = speeds.left_out[0]
        raise ConfigError(f"no device can be used: {first.what.removesuffix(' alone')}: {first.reason}")
    offered = [OfferedFleet(what=_what(placed), fleet=placed.fleet) for placed in speeds.placed]
    options = choose_devices(processor, offered, goal)
    taken = next(index for index, option in enumerate(options) if not option.reason)
    index = taken if processor is None else taken - 1
    return options[taken], None if index < 0 else speeds.placed[index], (*options, *speeds.left_out)


def _what(placed: PlacedGraphFleet) -> str:
    names = ["the processor" if name == "processor" else name for name in placed.names]
    return named_together(names)
