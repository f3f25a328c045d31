"""Devices that Vulkan's loader finds, on which WebGPU computes under Linux, software devices included."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator

from shoal.core.plan.devices.description import Hardware

_SUCCESS = 0
_INSTANCE_CREATE_INFO = 1
_DEVICE_LOCAL = 1
_MOST_DEVICES = 64
_VENDORS = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel", 0x106B: "apple", 0x5143: "qualcomm"}
_PROCESSOR = 4
"""VK_PHYSICAL_DEVICE_TYPE_CPU: a device in software."""


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("num_layers", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("num_extensions", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class _Properties(ctypes.Structure):
    """The beginning of VkPhysicalDeviceProperties, with enough room for the limits that follow."""

    _fields_ = (
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("kind", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("rest", ctypes.c_uint8 * 2048),
    )


class _Heap(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint64), ("flags", ctypes.c_uint32))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("num_types", ctypes.c_uint32),
        ("types", ctypes.c_uint32 * 64),
        ("num_heaps", ctypes.c_uint32),
        ("heaps", _Heap * 16),
    )


def find_vulkan_devices() -> Iterator[Hardware]:
    """The devices that the loader finds; none if there is no loader or no driver.

    Drivers run in the calling process and may crash it, so this should run in a separate process.

    Source: Vulkan 1.0, vkEnumeratePhysicalDevices and vkGetPhysicalDeviceProperties.
    """
    name = ctypes.util.find_library("vulkan")
    if name is None:
        return
    loader = ctypes.CDLL(name)
    instance = ctypes.c_void_p()
    wanted = _InstanceCreateInfo(kind=_INSTANCE_CREATE_INFO)
    if loader.vkCreateInstance(ctypes.byref(wanted), None, ctypes.byref(instance)) != _SUCCESS:
        return
    count = ctypes.c_uint32(_MOST_DEVICES)
    handles = (ctypes.c_void_p * _MOST_DEVICES)()
    if loader.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles) == _SUCCESS:
        for handle in handles[: count.value]:
            yield _describe(loader, ctypes.c_void_p(handle))
    loader.vkDestroyInstance(instance, None)


def _describe(loader: ctypes.CDLL, handle: ctypes.c_void_p) -> Hardware:
    found, memory = _Properties(), _Memory()
    loader.vkGetPhysicalDeviceProperties(handle, ctypes.byref(found))
    loader.vkGetPhysicalDeviceMemoryProperties(handle, ctypes.byref(memory))
    local = [heap.size for heap in memory.heaps[: memory.num_heaps] if heap.flags & _DEVICE_LOCAL]
    version = found.driver_version
    return Hardware(
        title=found.name.decode(errors="replace") + (" (in software)" if found.kind == _PROCESSOR else ""),
        kind="cpu" if found.kind == _PROCESSOR else "gpu",
        vendor=_VENDORS.get(found.vendor, ""),
        memory_bytes=max(local, default=None),
        driver=f"vulkan {version >> 22}.{version >> 12 & 0x3FF}.{version & 0xFFF}",
    )
