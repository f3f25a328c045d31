"""What a measurement of a device holds for, beside the device itself: the provider's release, and the driver."""

from __future__ import annotations

import platform
from functools import cache

from shoal.measure.devices.discovery import find_devices
from shoal.protocol.device_config import DeviceConfig


def device_setting(device: DeviceConfig, python: str | None) -> list[str]:
    """Part of the key of what is kept: another release, another driver, and it is measured anew.

    Args:
        device: that was measured.
        python: of the environment that reaches it; None: this one.

    Raises:
        ConfigError: there is no such Python, or it has no Shoal.
        WorkerLost: a driver has ended the process that looked.
    """
    return list(_setting(device.provider, python))


@cache
def _setting(provider: str, python: str | None) -> tuple[str, ...]:
    """A process looks for each environment once: what is installed meanwhile counts from the next command on."""
    found = find_devices(python)
    packages = {one.package for one in found.devices if one.provider == provider}
    drivers = {f"{one.title}: {one.driver}" for one in found.hardware}
    return found.runtime, *sorted(packages), *sorted(drivers), platform.release()
