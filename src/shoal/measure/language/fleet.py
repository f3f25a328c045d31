"""Measure the speed of workers on this machine, with a model or without, and keep the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

from shoal.executor.process.fork_server import can_fork
from shoal.json_cache import ProfileCache, profile_folder
from shoal.measure.devices.setting import device_setting
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.language.measurer import LinkTimes, Measurer, ModelSpeeds, TeamMeasurer
from shoal.measure.language.rates import LayoutRates
from shoal.measure.language.timed_model import ModelToTime, model_to_time
from shoal.measure.machine import Machine, this_machine
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot, kinds_of
from shoal.model.decoder.process_bytes import room_of_each
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.speeds.speeds import Fleet, LinkSpeed, WorkerClass

_NO_LINK = LinkSpeed(latency_s=0.0, bytes_per_s=1e15)
"""The link of a single worker, which is never used."""

THOROUGHLY = Measuring()
StartMeasuring = Callable[[Sequence[Slot]], AbstractContextManager[Measurer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRates:
    """The rates of this machine that do not depend on a model."""

    machine: Machine
    layouts: tuple[LayoutRates, ...]
    """Rates of the requested layouts, in their order."""


def measure_fleet(
    model: ModelOnDisk,
    precisions: Sequence[Precision],
    slots: Sequence[Slot],
    measuring: Measuring = THOROUGHLY,
    start: StartMeasuring = TeamMeasurer,
) -> Fleet:
    """Measure a worker with a model on each of the slots.

    Args:
        model: the model that the workers run.
        precisions: the precisions to measure.
        slots: slots on disjoint cores. Equal ones form a class; classes are in the order of their first slots.
        measuring: how to measure; the slots determine the threads.
        start: makes a measurer for unknown results.

    Raises:
        ConfigError: a quota cannot be set here, or a Python for a device is missing.
        ModelLoadError: the model is missing, broken or of an unknown kind.
        CapacityError: it does not fit into memory.
        WorkerLost: a measuring process died or does not answer.
    """
    models = {precision: model_to_time(model, precision) for precision in precisions}
    kept_links = ProfileCache(profile_folder(), LinkTimes)
    kept_speeds = _kept_speeds()
    rough = {precision for precision, one in models.items() if measuring.is_rough and not _is_known(one, slots)}
    with start(slots) as measurer:
        links = kept_links.get_or_measure(_key("links", slots), measurer.links, refresh=measuring.refresh)
        speeds = {
            precision: kept_speeds.get_or_measure(
                _model_key(one, slots, is_rough=precision in rough),
                lambda one=one, precision=precision: measurer.speeds(
                    one, measuring.on_progress, is_rough=precision in rough
                ),
                refresh=measuring.refresh,
            )
            for precision, one in models.items()
        }
    return _fleet(slots, links, speeds, is_rough=bool(rough))


def is_measured(model: ModelOnDisk, precisions: Sequence[Precision], slots: Sequence[Slot]) -> bool:
    """Whether `measure_fleet` has already been run thoroughly for these slots. Raises ModelLoadError."""
    return all(_is_known(model_to_time(model, one), slots) for one in precisions)


def measure_machine(
    layouts: Sequence[Sequence[Slot]], *, refresh: bool = False, start: StartMeasuring = TeamMeasurer
) -> MachineRates:
    """Measure the rates that do not depend on a model, for each layout. Raises ConfigError, WorkerLost."""
    kept = ProfileCache(profile_folder(), LayoutRates)
    rates: list[LayoutRates] = []
    for slots in layouts:
        with start(slots) as measurer:
            rates.append(kept.get_or_measure(_key("rates", slots), measurer.rates, refresh=refresh))
    return MachineRates(machine=this_machine(), layouts=tuple(rates))


def class_of_each(slots: Sequence[Slot]) -> list[int]:
    """The index of each slot's class in the fleet."""
    kinds = [slot.kind for slot in kinds_of(slots)]
    return [kinds.index(slot.kind) for slot in slots]


def _fleet(slots: Sequence[Slot], links: LinkTimes, speeds: Mapping[str, ModelSpeeds], *, is_rough: bool) -> Fleet:
    kinds = kinds_of(slots)
    are_forks = can_fork() and all(slot.python is None for slot in slots)
    memory_bytes = room_of_each(free_memory_bytes(), len(slots), are_forks=are_forks)
    ring = _NO_LINK if links.pair is None else links.pair.ring
    sums = _NO_LINK if links.pair is None else links.pair.sums
    return Fleet(
        classes=tuple(
            WorkerClass(
                name=str(kind),
                count=sum(slot.kind == kind.kind for slot in slots),
                threads=kind.threads,
                memory_bytes=memory_bytes,
                alone={precision: one.classes[index].alone for precision, one in speeds.items()},
                busy={precision: one.classes[index].busy for precision, one in speeds.items()},
                is_rough=is_rough,
                others_share=max(one.others_share for one in speeds.values()),
                takes_shards=kind.device is None,
            )
            for index, kind in enumerate(kinds)
        ),
        links=((ring,) * len(kinds),) * len(kinds),
        sums=((sums,) * len(kinds),) * len(kinds),
        turn=links.turn,
        message_s=links.message_s,
    )


def _kept_speeds() -> ProfileCache[ModelSpeeds]:
    return ProfileCache(profile_folder(), ModelSpeeds)


def _is_known(model: ModelToTime, slots: Sequence[Slot]) -> bool:
    return _kept_speeds().has(_model_key(model, slots, is_rough=False))


def _model_key(model: ModelToTime, slots: Sequence[Slot], *, is_rough: bool) -> dict[str, object]:
    return _key("model, roughly" if is_rough else "model", slots, model=model.shape)


def _key(what: str, slots: Sequence[Slot], **more: object) -> dict[str, object]:
    devices = [
        slot.device and (asdict(slot.device), slot.python, device_setting(slot.device, slot.python)) for slot in slots
    ]
    return {
        "what": what,
        "machine": asdict(this_machine()),
        "slots": [(list(slot.cores), slot.cpu_quota) for slot in slots],
        **({"devices": devices} if any(devices) else {}),
        **more,
    }
