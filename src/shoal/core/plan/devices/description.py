"""What a machine has to compute with, and what is missing to use it. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.plan.devices.providers import PROVIDERS, DeviceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """Some cores of a machine and the memory that is near to them."""

    number: int
    cpus: tuple[int, ...]
    """CPU ids, ascending"""
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The processor of a machine, all sockets together."""

    name: str
    instruction_sets: tuple[str, ...]
    """those that inference profits from, as Linux calls them"""
    nodes: tuple[NumaNode, ...]
    """at least one"""

    @property
    def memory_bytes(self) -> int:
        """Of all nodes."""
        return sum(node.memory_bytes for node in self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A GPU or an NPU as the operating system or its driver shows it, whether or not anything can use it."""

    title: str
    """its own name"""
    kind: DeviceKind
    vendor: str
    """nvidia, amd, intel, apple, qualcomm, or another name; empty: not known"""
    memory_bytes: int | None
    """None: not known, or that of the machine"""
    driver: str | None
    """its driver and the version of it; None: no driver is bound to it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderDevice:
    """One device of an execution provider that an environment has."""

    provider: str
    """short name"""
    index: int
    kind: DeviceKind
    title: str
    """its own name; empty: the provider does not tell"""
    package: str
    """what brings the provider, with its version"""
    problem: str | None
    """why a session cannot be opened on it; None: one was"""

    @property
    def name(self) -> str:
        """As `--device` says it."""
        return f"{self.provider}:{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDevices:
    """All of it."""

    processor: Processor
    hardware: tuple[Hardware, ...]
    devices: tuple[ProviderDevice, ...]
    runtime: str = ""
    """release of ONNX Runtime in the environment that looked"""
    clash: tuple[str, ...] = ()
    """packages that share the module name `onnxruntime`, where there are several"""


_PROVIDERS_OF = {
    "nvidia": ("cuda", "tensorrt-rtx", "tensorrt", "webgpu"),
    "amd": ("migraphx", "webgpu", "rocm"),
    "intel": ("openvino", "webgpu"),
    "apple": ("coreml", "mlx", "webgpu"),
}
"""Which providers reach the devices of a vendor, the quickest first; others are reached by WebGPU."""
_DRIVER_OF = {
    "nvidia": "install NVIDIA's driver, so that nvidia-smi lists it",
    "amd": "load the amdgpu driver of the kernel",
    "intel": "load the i915, xe or intel_vpu driver of the kernel",
}


def missing_lines(found: MachineDevices) -> tuple[str, ...]:
    """What keeps devices from being used, a line each: what it is, and what to install."""
    lines: list[str] = []
    if found.clash:
        lines.append(
            f"{' and '.join(found.clash)} share the module name onnxruntime, and the one installed last is used: "
            "uninstall all of them, then install the one that is wanted"
        )
    usable = {one.provider for one in found.devices if one.problem is None}
    lines += [f"{one.name}: {one.problem}" for one in found.devices if one.problem is not None]
    for one in found.hardware:
        if one.driver is None:
            way_out = _DRIVER_OF.get(one.vendor, "install its driver")
            lines.append(f"{one.title}: no driver is bound to it; {way_out}")
        elif one.kind != "cpu" and not usable & set(providers := _PROVIDERS_OF.get(one.vendor, ("webgpu",))):
            lines.append(f"{one.title}: no provider for it is at hand; {_install(providers)}")
    if not any(one.kind != "cpu" for one in found.hardware):
        lines.append("no GPU or NPU was found")
    return tuple(dict.fromkeys(lines))


def _install(providers: Sequence[str]) -> str:
    return " or ".join(PROVIDERS[name].install for name in providers[:2])
