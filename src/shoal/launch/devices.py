"""The devices that a user has named, found on this machine."""

from __future__ import annotations

from functools import partial

from shoal.config import DevicesConfig
from shoal.core.plan.devices.device_text import AUTO
from shoal.core.plan.devices.workers import chosen_devices, named_pythons
from shoal.errors import ConfigError
from shoal.protocol.device_config import DeviceConfig


def devices_by_hand(config: DevicesConfig) -> tuple[DeviceConfig | None, ...]:
    """Of the workers of a split that was said by hand; empty: all compute on processors.

    Raises:
        ConfigError: `auto`, which goes with `--split auto`, or what makes no sense.
    """
    if [name.strip().lower() for name in config.names] == [AUTO]:
        raise ConfigError("--device auto goes with --split auto; beside a split, name the device of each worker")
    return chosen_devices(config, partial(_find_gpu, config))


def _find_gpu(config: DevicesConfig) -> DeviceConfig:
    from shoal.measure.devices.discovery import find_all_devices, find_gpu  # starts processes

    return find_gpu(find_all_devices([None, *named_pythons(config).values()]))
