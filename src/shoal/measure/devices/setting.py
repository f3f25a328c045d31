"""The software for which a measurement of a device is valid: the provider's release and the driver."""

from __future__ import annotations

import platform
from functools import cache

from shoal.measure.devices.discovery import find_devices
from shoal.protocol.device_config import DeviceConfig


def device_setting(device: DeviceConfig, python: str | None) -> list[str]:
    """Part of the cache key of a measurement, so that another release or driver causes a new one.

    Args:
        device: the measured device.
        python: path of the Python whose environment can use it; None: this one.

    Raises:
        ConfigError: there is no such Python, or it has no Shoal.
        WorkerLost: a driver crashed the searching process.
    """
    return list(_setting(device.provider, python))


@cache
def _setting(provider: str, python: str | None) -> tuple[str, ...]:
    """Cached for this process: packages that are installed later count from the next command on."""
    found = find_devices(python)
    packages = {one.package for one in found.devices if one.provider == provider}
    drivers = {f"{one.title}: {one.driver}" for one in found.hardware}
    return found.runtime, *sorted(packages), *sorted(drivers), platform.release()
