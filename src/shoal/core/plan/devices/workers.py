"""The user's choice of devices: which one each worker of a plan computes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from shoal.config import DevicesConfig
from shoal.core.plan.devices.device_text import AUTO, GPU, parse_device, parse_float_precision, parse_options
from shoal.core.plan.devices.providers import PROVIDERS
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ConfigError
from shoal.protocol.device_config import DeviceConfig

_MORE = "--provider-option, --device-memory and --device-precision"
FindGpu = Callable[[], DeviceConfig]
"""Finds the GPU that `--device gpu` means on this machine. Raises ConfigError if there is none."""


def chosen_devices(config: DevicesConfig, find_gpu: FindGpu) -> tuple[DeviceConfig | None, ...]:
    """The devices that `--device` names, with their options and memory limits; None stands for the processor.

    Empty if it names none, or `auto`.

    Raises:
        ConfigError: a name, an option or a Python is invalid, or `auto` is combined with other names.
    """
    options, precision = parse_options(config.options), parse_float_precision(config.precision)
    says_more = bool(config.options) or config.memory_bytes is not None or precision != "fp32"
    named_pythons(config)
    names = [name.strip().lower() for name in config.names]
    if AUTO in names and len(names) > 1:
        raise ConfigError("--device auto cannot be combined with other names, because it chooses for all workers")
    if names in ([], [AUTO]):
        if says_more:
            raise ConfigError(f"{_MORE} go with devices: name them with --device")
        return ()
    found = [find_gpu() if name == GPU else parse_device(name) for name in names]
    if not any(found) and says_more:
        raise ConfigError(f"{_MORE} mean nothing for cpu")
    return tuple(
        device and replace(device, options=options, memory_bytes=config.memory_bytes, precision=precision)
        for device in found
    )


def named_pythons(config: DevicesConfig) -> dict[str, str]:
    """The paths of `--worker-python` by provider; the path for all other providers has an empty name.

    Raises:
        ConfigError: unknown provider, or two paths for the same one.
    """
    found: dict[str, str] = {}
    for item in config.pythons:
        head, equals, path = item.partition("=")
        provider, path = (head.lower(), path) if equals and "/" not in head else ("", item)
        if provider and provider not in PROVIDERS:
            raise ConfigError(f"--worker-python {item}: there is no provider {head!r}; give PATH or PROVIDER=PATH")
        if not path or provider in found:
            raise ConfigError(f"--worker-python {item}: give one path for a provider, and one for all others")
        found[provider] = path
    return found


def worker_python(config: DevicesConfig, device: DeviceConfig | None) -> str | None:
    """The path of the Python that runs a worker on a device; None: the head's. Raises ConfigError as
    `named_pythons`."""
    found = named_pythons(config)
    return None if device is None else found.get(device.provider) or found.get("")


def deal_devices(
    places: Sequence[WorkerPlacement], devices: Sequence[DeviceConfig | None], config: DevicesConfig
) -> list[WorkerPlacement]:
    """Assign the devices to the workers' places in order; a single device is for all of them.

    Raises:
        ConfigError: there is neither one device nor one for each worker.
    """
    if len(devices) not in (0, 1, len(places)):
        raise ConfigError(
            f"--device names {len(devices)} devices for {len(places)} worker{'s' if len(places) > 1 else ''}; give one "
            "for all, or one for each in the order of the plan, such as cpu,webgpu:0"
        )
    if not devices:
        return list(places)
    each = [devices[0]] * len(places) if len(devices) == 1 else devices
    return [
        replace(place, device=device, python=worker_python(config, device))
        for place, device in zip(places, each, strict=True)
    ]
