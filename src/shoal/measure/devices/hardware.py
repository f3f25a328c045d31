"""GPUs and NPUs that the operating system, NVIDIA's driver or Vulkan reports."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from shoal.core.plan.devices.description import Hardware
from shoal.core.plan.devices.providers import DeviceKind
from shoal.measure.devices.vulkan import find_vulkan_devices

_SYSTEM = Path("/")
_VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel", "0x106b": "apple", "0x17cb": "qualcomm"}
"""Vendors of devices that compute, unlike the display controllers of virtual machines. Source: the PCI ID
repository."""
_NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_QUERY_TIMEOUT_S = 20.0


def find_hardware(system: Path = _SYSTEM) -> tuple[Hardware, ...]:
    """All devices, each listed once. NVIDIA's driver and Vulkan are preferred, as they know more than Linux.

    `system` is the root of the file system, which differs in tests.
    """
    told = [*_nvidia(), *find_vulkan_devices()]
    known = {one.vendor for one in told if one.vendor}
    return (*_without_twins(told), *(one for one in _of_linux(system) if one.vendor not in known or one.kind == "npu"))


def _without_twins(told: list[Hardware]) -> Iterator[Hardware]:
    """Leave out NVIDIA GPUs from Vulkan if NVIDIA's driver reports them, too."""
    has_nvidia = any(one.vendor == "nvidia" and (one.driver or "").startswith("nvidia") for one in told)
    for one in told:
        if not (has_nvidia and one.vendor == "nvidia" and (one.driver or "").startswith("vulkan")):
            yield one


def parse_nvidia(text: str) -> Iterator[Hardware]:
    """Parse the output of `nvidia-smi`, lines of name, MiB and driver version; other lines are skipped."""
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3:
            name, mebibytes, version = fields
            memory_bytes = int(mebibytes) << 20 if mebibytes.isdecimal() else None
            driver = f"nvidia {version}"
            yield Hardware(title=name, kind="gpu", vendor="nvidia", memory_bytes=memory_bytes, driver=driver)


def _nvidia() -> Iterator[Hardware]:
    try:
        done = subprocess.run(_NVIDIA_QUERY, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return
    yield from parse_nvidia(done.stdout)


def _of_linux(system: Path) -> Iterator[Hardware]:
    """Graphics cards and accelerators with the drivers that are bound to them."""
    cards = sorted((system / "sys/bus/pci/devices").glob("*"))
    for card in cards:
        kind = _kind_of_class(_read(card / "class"))
        vendor = _VENDORS.get(_read(card / "vendor"))
        if kind is None or vendor is None:
            continue
        memory = _read(card / "mem_info_vram_total")
        driver = card / "driver"
        yield Hardware(
            title=f"{vendor} {'NPU' if kind == 'npu' else 'GPU'} {_read(card / 'device')} at {card.name}",
            kind=kind,
            vendor=vendor,
            memory_bytes=int(memory) if memory.isdecimal() else None,
            driver=driver.resolve().name if driver.exists() else None,
        )


def _kind_of_class(number: str) -> DeviceKind | None:
    """The kind of a PCI class; None: neither GPU nor NPU. Source: the PCI ID repository, classes 03 and 12."""
    if number.startswith(("0x0300", "0x0302", "0x0380")):
        return "gpu"
    return "npu" if number.startswith("0x1200") else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
