"""What providers say when a device is full or gone, told from what is the fault of a request."""

from __future__ import annotations

import re

import pytest

from shoal.model.device.failures import device_loss, is_out_of_memory, most_that_fits, unusable
from shoal.protocol.device_config import DeviceConfig

DEVICE = DeviceConfig(provider="cuda", index=1)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=h",
        "BFCArena::AllocateRawInternal 5 bytes; Failed to allocate memory for 9",
        "vkAllocateMemory failed with VK_ERROR_OUT_OF_DEVICE_MEMORY",
        "CUDNN_STATUS_ALLOC_FAILED",
        "[OpenVINO-EP] std::bad_alloc",
        "Buffer size (9) exceeds the max buffer size limit (5)",
    ],
)
def test_full(message: str) -> None:
    loss = device_loss(RuntimeError(message), DEVICE)
    assert is_out_of_memory(RuntimeError(message))
    assert str(loss).startswith("cuda:1 ran out of memory: ")


@pytest.mark.parametrize(
    "message",
    ["CUDA error: an illegal memory access was encountered", "Dawn: Device is lost", "VK_ERROR_DEVICE_LOST"],
)
def test_gone(message: str) -> None:
    loss = device_loss(RuntimeError(message), DEVICE)
    assert not is_out_of_memory(RuntimeError(message))
    assert str(loss) == f"cuda:1 is gone: {message}"


@pytest.mark.parametrize("message", ["Got invalid dimensions for input: x", "Non-zero status code: Reshape"])
def test_neither(message: str) -> None:
    assert device_loss(RuntimeError(message), DEVICE) is None


@pytest.mark.parametrize("total", [1, 2, 3, 17])
def test_the_largest_number_is_found_in_few_tries(total: int) -> None:
    for limit in range(total):
        tried: list[int] = []
        assert most_that_fits(total, lambda num: tried.append(num) or num <= limit) == limit  # noqa: B023
        assert len(tried) <= total.bit_length()


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        ("libcublasLt.so.13: cannot open shared object file", r"'onnxruntime-gpu\[cuda,cudnn\]'$"),
        ("libcuda.so.1: cannot open shared object file", "install NVIDIA's driver"),
        ("libnvinfer.so.10: cannot open shared object file", "tensorrt$"),
        ("libopenvino.so.2541: cannot open shared object file", "reinstall onnxruntime-openvino"),
        ('Device with "CPU" name is not registered in the OpenVINO Runtime', "OpenVINO has no plugin"),
        ("CUDA driver version is insufficient for CUDA runtime version", "update NVIDIA's driver"),
    ],
)
def test_what_makes_a_device_unusable_comes_with_the_way_out(said: str, way_out: str) -> None:
    found = unusable(said)
    assert found is not None
    assert re.search(way_out, found)


def test_requests_do_not_make_a_device_unusable() -> None:
    assert unusable("Got invalid dimensions for input: x") is None
