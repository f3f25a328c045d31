"""The devices of this machine that the user has named or that may be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from shoal.config import DevicesConfig
from shoal.core.plan.devices.description import MachineDevices
from shoal.core.plan.devices.device_text import AUTO
from shoal.core.plan.devices.workers import chosen_devices, named_pythons, worker_python
from shoal.errors import ConfigError, ShoalError
from shoal.measure.devices.providers_here import has_providers
from shoal.planner.device_options import DeviceOption
from shoal.protocol.device_config import DeviceConfig

_LABEL = re.compile(r"(replica \d+ stage \d+ on [\w-]+:\d+|profile \d+ \([\w-]+:\d+\)): ")
"""The beginning of messages from workers that were started to measure."""

_VENDORS = {"cuda": "nvidia", "tensorrt": "nvidia", "tensorrt-rtx": "nvidia", "migraphx": "amd", "rocm": "amd"}


def devices_by_hand(config: DevicesConfig) -> tuple[DeviceConfig | None, ...]:
    """The devices of the workers of a given split; empty: all compute on processors.

    Raises:
        ConfigError: `auto` is named, which needs `--split auto`, or an option is invalid.
    """
    if [name.strip().lower() for name in config.names] == [AUTO]:
        raise ConfigError("--device auto needs --split auto; otherwise name the device of each worker")
    return chosen_devices(config, partial(_find_gpu, config))


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedDevice:
    """A device that `auto` may use."""

    device: DeviceConfig
    python: str | None
    """The path of the Python of the environment that has its provider; None: this one."""
    memory_bytes: int | None
    """Memory for weights; None: this machine's free memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What `auto` may use for computing."""

    devices: tuple[OfferedDevice, ...] = ()
    with_processor: bool = True


def offered_devices(config: DevicesConfig) -> Offer:
    """The devices that `--device` allows `--split auto` to use; without it, all that work here.

    Devices are searched for only if this environment has a provider, or another environment is named.

    Raises:
        ConfigError: an option is invalid, or `gpu` is named and there is none.
        WorkerLost: a driver crashed the process that searched for devices.
    """
    named = chosen_devices(config, partial(_find_gpu, config))
    if named == (None,) or not (named or config.pythons or has_providers()):
        return Offer()
    found = _find_all(config)
    devices = [device for device in named if device is not None] if named else _usable(found)
    return Offer(
        devices=tuple(
            OfferedDevice(device=device, python=worker_python(config, device), memory_bytes=memory_of(found, device))
            for device in dict.fromkeys(devices)
        ),
        with_processor=None in named or not named,
    )


def offer_for(config: DevicesConfig, *, is_elsewhere: bool) -> Offer:
    """The devices that `--split auto` may use; other machines declare their devices themselves.

    Raises:
        ConfigError: devices are named for other machines, or as `offered_devices`.
        WorkerLost: as `offered_devices`.
    """
    if not is_elsewhere:
        return offered_devices(config)
    if config != DevicesConfig():
        raise ConfigError(
            "with --split auto, --device is for this machine only; in a cluster file, give machines a device: key"
        )
    return Offer()


def memory_of(found: MachineDevices, device: DeviceConfig) -> int | None:
    """Memory for weights on a device in bytes; None: it shares the machine's memory, or its memory is not known."""
    if device.memory_bytes is not None:
        return device.memory_bytes
    vendor = _VENDORS.get(device.provider)
    sizes = [one.memory_bytes for one in found.hardware if one.kind != "npu" and vendor in (None, one.vendor)]
    if device.provider == "webgpu" or vendor is not None:
        return sizes[device.index] if device.index < len(sizes) else None
    return None


def cannot_be_used(device: DeviceConfig, error: ShoalError) -> DeviceOption[Any]:
    """The option of a device that could not be measured, with the error."""
    return DeviceOption(what=f"{device.name} alone", choice=None, reason=_LABEL.sub("", str(error)))


def _find_all(config: DevicesConfig) -> MachineDevices:
    from shoal.measure.devices.discovery import find_all_devices  # imports code that starts processes

    return find_all_devices([None, *named_pythons(config).values()])


def _usable(found: MachineDevices) -> list[DeviceConfig]:
    return [DeviceConfig(provider=one.provider, index=one.index) for one in found.devices if one.problem is None]


def _find_gpu(config: DevicesConfig) -> DeviceConfig:
    from shoal.measure.devices.discovery import find_gpu

    return find_gpu(_find_all(config))
