"""Fleets with devices of this machine for a language model: each device alone, and all useful ones with the
processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal.errors import CapacityError, ConfigError, ModelLoadError, WorkerLost
from shoal.executor.process.fork_server import can_fork
from shoal.launch.devices import OfferedDevice, cannot_be_used
from shoal.launch.language.fleets import device_part, places_of_slots
from shoal.machines.placed_fleet import PlacedFleet
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.language.fleet import StartMeasuring, measure_fleet
from shoal.measure.language.measurer import TeamMeasurer
from shoal.measure.language.model_times import num_parts
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot
from shoal.measure.steps_told import StepsTold
from shoal.model.decoder.onnx.form_check import check_onnx_form
from shoal.model.decoder.process_bytes import room_of_each
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.device_options import HOPELESS, DeviceOption, too_slow
from shoal.planner.speeds.speeds import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFleets:
    """Measurements of the devices."""

    placed: tuple[PlacedFleet, ...]
    """Fleets of each device alone, then of all useful devices with the processor, or with each other."""
    left_out: tuple[DeviceOption[Any], ...]
    """Devices that cannot be used, or are far too slow."""


def measure_devices(
    model: ModelOnDisk,
    precisions: Sequence[Precision],
    measuring: Measuring,
    offered: Sequence[OfferedDevice],
    processor: Fleet | None,
    cores: Sequence[Sequence[int]],
    start: StartMeasuring = TeamMeasurer,
) -> DeviceFleets:
    """Measure each device alone, then all useful devices and the processor together.

    Args:
        model: the model that workers run.
        precisions: the precisions to measure.
        measuring: how to measure.
        offered: the devices.
        processor: the measured whole processor; None: it must not compute.
        cores: cores of the processor's workers beside devices, one worker for each NUMA node.
        start: starts the measuring processes.

    Raises:
        ConfigError, CapacityError, ModelLoadError, WorkerLost: measuring processor and devices together failed.
    """
    try:
        check_onnx_form(model.config, "processors compute it")
        if model.total_adapter_bytes:
            raise ConfigError("adapters are computed only on processors; merge one into the weights with --merge-lora")
    except ConfigError as error:
        return DeviceFleets(placed=(), left_out=tuple(cannot_be_used(one.device, error) for one in offered))
    measures = _Measures(model, precisions, measuring, start)
    alone: list[PlacedFleet] = []
    useful: list[OfferedDevice] = []
    left_out: list[DeviceOption[Any]] = []
    for one in offered:
        try:
            found = measures.quickly([one])
            if processor is not None and (factor := _times_as_slow(found.fleet, processor)) > HOPELESS:
                left_out.append(too_slow(one.device.name, factor))
            else:
                found = measures.fleet([one])
                useful.append(one)
        except (ConfigError, CapacityError, ModelLoadError, WorkerLost) as error:
            left_out.append(cannot_be_used(one.device, error))
            continue
        alone.append(found)
    beside = [] if processor is None else [Slot(cores=tuple(own)) for own in cores]
    if useful and len(beside) + len(useful) > 1:
        alone.append(measures.fleet(useful, beside))
    return DeviceFleets(placed=tuple(alone), left_out=tuple(left_out))


class _Measures:
    def __init__(
        self, model: ModelOnDisk, precisions: Sequence[Precision], measuring: Measuring, start: StartMeasuring
    ) -> None:
        self._model, self._precisions, self._measuring, self._start = model, precisions, measuring, start

    def quickly(self, devices: Sequence[OfferedDevice]) -> PlacedFleet:
        """Measure devices alone by few steps, since a slow one takes long even for these."""
        return self._measured(devices, (), replace(self._measuring, is_rough=True))

    def fleet(self, devices: Sequence[OfferedDevice], beside: Sequence[Slot] = ()) -> PlacedFleet:
        """Measure devices together, with workers of the processor beside them."""
        return self._measured(devices, beside, self._measuring)

    def _measured(self, devices: Sequence[OfferedDevice], beside: Sequence[Slot], measuring: Measuring) -> PlacedFleet:
        slots = [*beside, *(_slot(one) for one in devices)]
        steps = StepsTold(measuring.on_progress, len(self._precisions) * num_parts(len(slots), 1, has_devices=True))
        measuring = replace(measuring, on_progress=steps.begin)
        fleet = measure_fleet(self._model, self._precisions, slots, measuring, self._start)
        places = places_of_slots([*beside, *(replace(_slot(one), device=one.device) for one in devices)])
        return PlacedFleet(fleet=self._with_memory(fleet, devices, len(beside)), places=places)

    def _with_memory(self, fleet: Fleet, devices: Sequence[OfferedDevice], num_beside: int) -> Fleet:
        """The fleet with memory limits, in terms of the bytes that weights and KV take on a processor."""
        num_here = num_beside + sum(one.memory_bytes is None for one in devices)
        are_forks = can_fork() and all(one.python is None for one in devices)
        here = room_of_each(free_memory_bytes(), max(1, num_here), are_forks=are_forks)
        own = iter(int(self._part(one) * (here if one.memory_bytes is None else one.memory_bytes)) for one in devices)
        classes = (replace(one, memory_bytes=here if one.takes_shards else next(own)) for one in fleet.classes)
        return replace(fleet, classes=tuple(classes))

    def _part(self, offered: OfferedDevice) -> float:
        return device_part(self._model, self._precisions, offered.device.precision)


def _slot(offered: OfferedDevice) -> Slot:
    """The slot of a worker on a device for measuring, without its memory limit, which only the plan must respect."""
    return Slot(cores=(), device=replace(offered.device, memory_bytes=None), python=offered.python)


def _times_as_slow(device: Fleet, processor: Fleet) -> float:
    """The time of a layer for a single row on the device over that on the processor, at the first precision."""

    def layer_s(fleet: Fleet) -> float:
        speed = next(iter(fleet.classes[0].alone.values()))
        return sum(block.decode.at(1) + block.fixed_s + block.fixed_row_s for block in (speed.attention, speed.mlp))

    return layer_s(device) / layer_s(processor)
