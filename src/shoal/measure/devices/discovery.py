"""Finding the devices of this machine that can compute, by a process in each Python environment."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from shoal.core.plan.devices.description import MachineDevices, ProviderDevice
from shoal.errors import ConfigError, WorkerLost
from shoal.executor.process.child_process import module_command, worker_environment
from shoal.protocol.device_config import DeviceConfig

_TIMEOUT_S = 120.0
"""Time limit for all providers of an environment: the first session on a GPU may compile its kernels."""


def find_devices(python: str | None = None) -> MachineDevices:
    """The devices of this machine, and which of them an environment can use.

    Args:
        python: the environment's Python; None: this one.

    Raises:
        ConfigError: there is no such Python, or it has no Shoal.
        WorkerLost: a driver crashed the searching process, or hangs.
    """
    command = module_command("shoal.measure.devices.here", python=python)
    try:
        done = subprocess.run(command, capture_output=True, env=worker_environment(), timeout=_TIMEOUT_S)
    except (FileNotFoundError, PermissionError) as error:
        raise ConfigError(f"--worker-python {python}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise WorkerLost(f"looking for devices took longer than {_TIMEOUT_S:.0f} s: a driver hangs") from None
    try:
        return msgspec.json.decode(done.stdout, type=MachineDevices)
    except msgspec.DecodeError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        if done.returncode < 0:
            raise WorkerLost(f"looking for devices was ended by signal {-done.returncode}: a driver crashed") from None
        raise ConfigError(f"{python or 'this Python'} cannot look for devices: {last[0]}") from None


def find_all_devices(pythons: Iterable[str | None]) -> MachineDevices:
    """As `find_devices`, for several environments. A device that several can use is listed once for each provider.

    Raises: as `find_devices`.
    """
    found = [find_devices(python) for python in dict.fromkeys(pythons)]
    devices: dict[str, ProviderDevice] = {}
    for one in found:
        for device in one.devices:
            if device.name not in devices or devices[device.name].problem is not None:
                devices[device.name] = device
    clash = next((one.clash for one in found if one.clash), ())
    return replace(found[0], devices=tuple(devices.values()), clash=clash)


def find_gpu(found: MachineDevices) -> DeviceConfig:
    """The GPU that `--device gpu` means: the first of the preferred provider. Raises ConfigError if there is none."""
    for one in found.devices:
        if one.kind == "gpu" and one.problem is None:
            return DeviceConfig(provider=one.provider, index=one.index)
    problems = [f"{one.name}: {one.problem}" for one in found.devices if one.kind == "gpu" and one.problem is not None]
    why = problems[0] if problems else "shoal devices lists what there is and what is missing"
    raise ConfigError(f"--device gpu: no GPU can be used here; {why}")
