"""The fleets that a plan may use: divisions of this machine, or the machines of a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from shoal.core.plan.language import Block
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ConfigError
from shoal.launch.cluster_places import places_of, read_cluster_file
from shoal.machines.machines import Machines
from shoal.machines.opening import RAY
from shoal.machines.placed_fleet import PlacedFleet, Places
from shoal.measure.language.fleet import class_of_each, is_measured, measure_fleet
from shoal.measure.language.model_times import num_parts
from shoal.measure.language.timed_model import clip_work, layer_weights
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot, even_layout, local_layouts
from shoal.measure.steps_told import StepsTold
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.files.cluster_file import ClusterFile, DescribedMachine, Rates
from shoal.planner.speeds.roofline import RooflineRates, roofline_worker
from shoal.planner.speeds.speeds import Fleet, LinkSpeed, WorkerClass
from shoal.planner.split.device_layers import part_on_devices
from shoal.protocol.device_config import FloatPrecision
from shoal.worker.memory_nodes import node_cpus

_MOST_INT4_BYTES, _MOST_INT8_BYTES = 0.9, 2.0
"""The most bytes per weight, including scales and offsets: 0.63 to 0.75 with 4 bits, 1.13 with 8 bits, 4 with fp32."""
_MOST_ROUGH_WORKERS = 2
"""The most workers of a quick look: a single request gains most from the first division of the cores, if from any."""


def find_fleets(
    cluster: str | None,
    model: ModelOnDisk,
    precisions: Sequence[Precision],
    measuring: Measuring,
    machines: Machines | None,
) -> list[PlacedFleet]:
    """Measure the machines that a plan may use.

    Args:
        cluster: the cluster file; None: there is none.
        model: the model that workers run.
        precisions: the precisions to measure.
        measuring: how to measure.
        machines: the machines to measure instead of this one and those of the file.

    Raises:
        ConfigError: threads are given for several machines, or the file is invalid.
        WorkerLost: a measuring process died or did not answer.
    """
    if measuring.threads is not None and (machines is not None or cluster is not None):
        raise ConfigError("--threads is for this machine only; on other machines a worker uses all cores")
    if machines is not None:
        return [machines.measure(model, precisions, measuring)]
    if cluster is None:
        return local_fleets(model, precisions, measuring)
    return [fleet_from_file(read_cluster_file(cluster), model, precisions, measuring)]


def local_fleets(model: ModelOnDisk, precisions: Sequence[Precision], measuring: Measuring) -> list[PlacedFleet]:
    """Measure this machine as one worker with many threads, or several with fewer; at most two in a quick look.

    Args:
        model: the model that workers run.
        precisions: the precisions to measure.
        measuring: how to measure.
    """
    layouts = _layouts(measuring.threads)
    if measuring.is_rough:
        layouts = tuple(
            slots for slots in layouts if len(slots) <= _MOST_ROUGH_WORKERS or is_measured(model, precisions, slots)
        )
    counts = [len(precisions) * num_parts(len(slots), model.atoms.max_shards) for slots in layouts]
    steps = StepsTold(measuring.on_progress, sum(counts))

    def fleet_of(index: int, slots: Sequence[Slot]) -> PlacedFleet:
        steps.skip_to(sum(counts[:index]))
        fleet = measure_fleet(model, precisions, slots, replace(measuring, on_progress=steps.begin))
        return PlacedFleet(fleet=fleet, places=places_of_slots(slots))

    return [fleet_of(index, slots) for index, slots in enumerate(layouts)]


def whole_processor(threads: int | None) -> tuple[tuple[int, ...], ...]:
    """Cores of the fewest workers that use the whole processor, one for each NUMA node. Raises ConfigError."""
    return tuple(slot.cores for slot in _layouts(threads)[0])


def _layouts(threads: int | None) -> tuple[tuple[Slot, ...], ...]:
    """Divisions of this machine, the one with the fewest workers first. Raises ConfigError."""
    cores = sorted(os.sched_getaffinity(0))
    if threads is None:
        return local_layouts(cores, node_cpus().values())
    if threads > len(cores):
        raise ConfigError(f"--threads is {threads}, but there are {len(cores)} cores")
    return (even_layout(cores[: len(cores) // threads * threads], len(cores) // threads),)


def places_of_slots(slots: Sequence[Slot]) -> Places:
    """The places of workers, class by class."""
    kinds = class_of_each(slots)
    places = [
        WorkerPlacement(threads=slot.threads, cores=slot.cores, device=slot.device, python=slot.python)
        for slot in slots
    ]
    return tuple(
        tuple(place for place, own in zip(places, kinds, strict=True) if own == kind) for kind in sorted(set(kinds))
    )


def fleet_from_file(
    cluster: ClusterFile, model: ModelOnDisk, precisions: Sequence[Precision], measuring: Measuring
) -> PlacedFleet:
    """The machines of a file: those at hand are measured together, the others estimated from their rates.

    Raises:
        ConfigError: the file names CPU ids that this process may not use, or a quota that cannot be enforced.
    """
    slots = _slots(cluster)
    measured = None
    if slots:
        has_devices = any(slot.device is not None for slot in slots)
        parts = num_parts(len(slots), model.atoms.max_shards, has_devices=has_devices)
        steps = StepsTold(measuring.on_progress, len(precisions) * parts)
        measured = measure_fleet(model, precisions, slots, replace(measuring, on_progress=steps.begin))
    class_indexes = iter(class_of_each(slots))
    classes = tuple(
        replace(measured.classes[next(class_indexes)], name=machine.name, count=1)
        if machine.is_local and measured
        else _described(machine, model, precisions)
        for machine in cluster.machines
    )
    links = cluster.links_between()
    fleet = Fleet(
        classes=tuple(
            _with_memory(one, machine, model, precisions)
            for one, machine in zip(classes, cluster.machines, strict=True)
        ),
        links=_mixed(links, measured and measured.links, cluster),
        sums=_mixed(links, measured and measured.sums, cluster),
    )
    if measured:
        fleet = replace(fleet, turn=measured.turn, message_s=measured.message_s)
    places = tuple(tuple(places_of(machine)) for machine in cluster.machines)
    return PlacedFleet(fleet=fleet, places=places)


def _with_memory(
    one: WorkerClass, machine: DescribedMachine, model: ModelOnDisk, precisions: Sequence[Precision]
) -> WorkerClass:
    """The class with the memory given in the file; for a device, in terms of the bytes on a processor."""
    memory_bytes, device = machine.memory_bytes or one.memory_bytes, machine.device_config
    part = 1.0 if device is None else device_part(model, precisions, device.precision)
    return replace(one, memory_bytes=int(part * memory_bytes))


def device_part(model: ModelOnDisk, precisions: Sequence[Precision], floats: FloatPrecision) -> float:
    """The ratio of a model's bytes on processors to those on devices with such floats, at most 1."""
    return min(
        part_on_devices(model.blocks(precision), model.blocks(precision, exact_activations=True), floats)
        for precision in precisions
    )


def _slots(cluster: ClusterFile) -> list[Slot]:
    """The slots of the machines at hand, in the file's order."""
    allowed = os.sched_getaffinity(0)
    slots: list[Slot] = []
    for machine in cluster.machines:
        if not machine.is_local:
            continue
        if missing := set(machine.cpus or ()) - allowed:
            raise ConfigError(
                f"machine {machine.name}: there is no CPU {min(missing)} to use here; there are "
                f"{', '.join(map(str, sorted(allowed)))}"
            )
        device = machine.device_config
        slots.append(
            Slot(
                cores=machine.cpus or (),
                cpu_quota=machine.cpu_quota or 1.0,
                device=device and replace(device, memory_bytes=None),
                python=machine.python,
            )
        )
    return slots


def _described(machine: DescribedMachine, model: ModelOnDisk, precisions: Sequence[Precision]) -> WorkerClass:
    """Estimate one worker on all cores of a described machine."""
    rates = machine.rates
    assert rates is not None
    assert machine.memory_bytes is not None
    config = model.config
    speeds = {
        precision: roofline_worker(
            blocks := model.blocks(precision),
            layer_weights(config),
            RooflineRates(memory_bytes_per_s=rates.memory_bytes_per_s, flops_per_s=_flops_per_s(blocks, rates)),
            query_width=config.num_heads * config.head_dim,
            clip=clip_work(config),
        )
        for precision in precisions
    }
    return WorkerClass(
        name=machine.name,
        count=machine.count,
        threads=machine.cores or 1,
        memory_bytes=machine.memory_bytes,
        alone=speeds,
        busy=speeds,
        takes_shards=machine.device is None,
    )


def _flops_per_s(blocks: Sequence[Block], rates: Rates) -> float:
    """The rate for the width of the layers' weights."""
    bytes_per_weight = 2 * blocks[1].read_bytes(1) / blocks[1].flops_per_token
    int8_flops_per_s = rates.int8_flops_per_s or rates.fp32_flops_per_s
    if bytes_per_weight < _MOST_INT4_BYTES:
        return rates.int4_flops_per_s or int8_flops_per_s
    return int8_flops_per_s if bytes_per_weight < _MOST_INT8_BYTES else rates.fp32_flops_per_s


def _mixed(
    described: Sequence[Sequence[LinkSpeed]], measured: Sequence[Sequence[LinkSpeed]] | None, cluster: ClusterFile
) -> tuple[tuple[LinkSpeed, ...], ...]:
    """The described links, but measured ones between machines at hand (unlike workers with equal links).

    An all-reduce between described machines takes as long as one hop, since messages go both ways at once.
    """
    machines = cluster.machines
    return tuple(
        tuple(
            measured[0][0] if measured and one.is_local and other.is_local else described[row][column]
            for column, other in enumerate(machines)
        )
        for row, one in enumerate(machines)
    )


def describes_all(name: str | None) -> bool:
    """Whether `--cluster` names a file in which all machines are described. Raises: as `read_cluster_file`."""
    if name is None or name == RAY:
        return False
    return not any(machine.is_local for machine in read_cluster_file(name).machines)
