"""Errors of a device that are not caused by what it computes: its memory is full, or it is gone."""

from __future__ import annotations

import re
from collections.abc import Callable

from shoal.errors import DeviceLost
from shoal.protocol.device_config import DeviceConfig

_OUT_OF_MEMORY = re.compile(
    r"out of (?:\w+ )?memory|out_?of_?(?:device_?|host_?)?memory|failed to allocate|alloc_failed|bad_alloc"
    r"|exceeds the max buffer size",
    re.IGNORECASE,
)
"""Messages of providers: CUDA, its libraries, Vulkan and D3D12 under WebGPU, ONNX Runtime's own arenas."""
_GONE = re.compile(
    r"device (?:is |was )?lost|device_?lost|device (?:was )?removed|CUDA (?:error|failure)|HIP (?:error|failure)"
    r"|no CUDA-capable device|uncorrectable ECC",
    re.IGNORECASE,
)

_UNUSABLE = {
    r"Failed to get a WebGPU adapter": "WebGPU finds no GPU that it can use; install the GPU's Vulkan driver (Debian: "
    "mesa-vulkan-drivers, or NVIDIA's), or name one by VK_ICD_FILENAMES",
    r"CUDA driver version is insufficient": "the CUDA driver is older than the provider needs; update NVIDIA's driver",
    r"no CUDA-capable device|libcuda\.so": "CUDA finds no GPU; install NVIDIA's driver, so that nvidia-smi lists it",
    r"libnvinfer|install TensorRT libraries": "TensorRT or CUDA is missing; "
    "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt",
    r"lib(?:cu\w+|nvrtc)\.so": "CUDA's libraries are missing; pip install 'onnxruntime-gpu[cuda,cudnn]'",
    r"libopenvino": "OpenVINO's libraries are missing; pip install --force-reinstall onnxruntime-openvino",
    r"is not registered in the OpenVINO Runtime": "OpenVINO has no plugin for that device here; choose another by "
    "--provider-option device_type=, or pip install --force-reinstall the package that brings it",
}
"""Messages of providers, or of the linker, when a device cannot be used at all, and what they mean for a user."""


def unusable(said: str) -> str | None:
    """Why a device cannot be used at all, and what to do; None: the message is not known to mean that."""
    return next((why for pattern, why in _UNUSABLE.items() if re.search(pattern, said)), None)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a provider says that its device's memory is full."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


def device_loss(error: Exception, device: DeviceConfig) -> DeviceLost | None:
    """The loss that a failed run means, if the device is to blame and another worker could do the work; None: it is
    not."""
    if is_out_of_memory(error):
        return DeviceLost(f"{device.name} ran out of memory: {_one_line(error)}")
    return DeviceLost(f"{device.name} is gone: {_one_line(error)}") if _GONE.search(str(error)) else None


def most_that_fits(total: int, fits: Callable[[int], bool]) -> int:
    """The largest number below `total` for which `fits` is true; 0 if there is none. `fits` must be true below it,
    too."""
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
