"""What a machine has: of described machines, and of this one through environments that reach devices."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.core.plan.devices.description import missing_lines
from shoal.errors import ConfigError
from shoal.measure.devices import discovery
from shoal.measure.devices.discovery import find_all_devices, find_devices, find_gpu
from shoal.measure.devices.hardware import find_hardware, parse_nvidia
from shoal.measure.devices.processor import find_processor
from shoal.worker.memory_nodes import parse_cpu_list


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


TWO_SOCKETS = {
    "proc/cpuinfo": "model name\t: EPYC\nflags\t: fpu avx2 avx512f amx_int8\n\nmodel name\t: EPYC\n",
    "sys/devices/system/node/node0/cpulist": "0-1,4\n",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:       1024 kB\n",
    "sys/devices/system/node/node1/cpulist": "2-3\n",
    "sys/devices/system/node/node1/meminfo": "Node 1 MemTotal:       2048 kB\n",
    "sys/devices/system/node/node2/cpulist": "\n",
    "sys/devices/system/node/node2/meminfo": "Node 2 MemTotal:       4096 kB\n",
}


def test_nodes_have_the_cores_that_may_be_used(tmp_path: Path) -> None:
    processor = find_processor(write(tmp_path, TWO_SOCKETS), allowed={0, 1, 3, 4})
    assert (processor.name, processor.instruction_sets) == ("EPYC", ("avx2", "avx512f", "amx_int8"))
    found = [(node.number, node.cpus, node.memory_bytes) for node in processor.nodes]
    assert found == [(0, (0, 1, 4), 1 << 20), (1, (3,), 2 << 20)]


def test_a_machine_that_tells_nothing_is_one_node(tmp_path: Path) -> None:
    (node,) = find_processor(tmp_path, allowed={5, 3}).nodes
    assert node.cpus == (3, 5)


def test_cpu_lists_are_read_as_linux_writes_them() -> None:
    assert parse_cpu_list("0-2,5,7-8\n") == (0, 1, 2, 5, 7, 8)
    assert parse_cpu_list("\n") == ()


def test_cards_are_found_by_class_and_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere.json")
    pci = "sys/bus/pci/devices"
    files = {
        f"{pci}/0000:03:00.0/class": "0x030000",
        f"{pci}/0000:03:00.0/vendor": "0x1002",
        f"{pci}/0000:03:00.0/device": "0x744c",
        f"{pci}/0000:03:00.0/mem_info_vram_total": "25753026560",
        f"{pci}/0000:04:00.0/class": "0x120000",
        f"{pci}/0000:04:00.0/vendor": "0x8086",
        f"{pci}/0000:04:00.0/device": "0x7d1d",
        f"{pci}/0000:05:00.0/class": "0x020000",
        f"{pci}/0000:05:00.0/vendor": "0x8086",
        f"{pci}/0000:06:00.0/class": "0x030000",
        f"{pci}/0000:06:00.0/vendor": "0x1013",
    }
    root = write(tmp_path, files)
    (root / "drivers/amdgpu").mkdir(parents=True)
    (root / pci / "0000:03:00.0/driver").symlink_to(root / "drivers/amdgpu")
    card, npu = find_hardware(root)
    assert (card.kind, card.vendor, card.memory_bytes, card.driver) == ("gpu", "amd", 25753026560, "amdgpu")
    assert (npu.kind, npu.vendor, npu.memory_bytes, npu.driver) == ("npu", "intel", None, None)


def test_what_nvidia_smi_prints_is_read() -> None:
    (card,) = parse_nvidia("NVIDIA H200, 143771, 570.86.15\nNo devices were found\n")
    assert (card.title, card.memory_bytes, card.driver) == ("NVIDIA H200", 143771 << 20, "nvidia 570.86.15")


def test_this_environment_has_a_processor_and_no_provider() -> None:
    found = find_devices()
    assert set(found.processor.nodes[0].cpus) <= os.sched_getaffinity(0)
    assert found.devices == ()
    with pytest.raises(ConfigError, match="no GPU can be used here"):
        find_gpu(found)


def test_a_plugin_is_registered_and_tried(openvino_python: str) -> None:
    (device,) = find_devices(openvino_python).devices
    assert (device.name, device.kind, device.problem) == ("openvino:0", "cpu", None)
    assert device.package.startswith("onnxruntime-ep-openvino ")


def test_a_runtime_of_another_environment_is_tried_as_well(webgpu_python: str) -> None:
    found = find_all_devices([None, webgpu_python])
    assert [(device.name, device.problem) for device in found.devices] == [("webgpu:0", None)]
    assert all(one.kind == "cpu" for one in found.hardware)
    assert any("SwiftShader" in one.title and one.memory_bytes for one in find_devices(webgpu_python).hardware)
    assert find_gpu(found).name == "webgpu:0"


def test_a_driver_without_a_device_is_one_line(webgpu_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere.json")
    (device,) = find_devices(webgpu_python).devices
    assert device.problem is not None
    assert device.problem.startswith("WebGPU finds no GPU that it can use; install the GPU's Vulkan driver")


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_what_is_no_python_with_shoal_is_refused(python: str) -> None:
    with pytest.raises(ConfigError, match=python):
        find_devices(python)


def test_a_clash_in_another_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here = find_devices()
    there = replace(here, clash=("onnxruntime 1.32.0", "onnxruntime-webgpu 1.27.0"))
    monkeypatch.setattr(discovery, "find_devices", lambda python: here if python is None else there)
    assert "share the module name onnxruntime" in missing_lines(find_all_devices([None, "/other/python"]))[0]
