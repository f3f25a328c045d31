"""The processors and devices of a machine, and what must be installed to use them. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.plan.devices.providers import PROVIDERS, DeviceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """A NUMA node: cores of a machine and the memory near them."""

    number: int
    cpus: tuple[int, ...]
    """CPU ids, ascending."""
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The processors of a machine, all sockets together."""

    name: str
    instruction_sets: tuple[str, ...]
    """Instruction sets that speed up inference, by their names in Linux."""
    nodes: tuple[NumaNode, ...]
    """The NUMA nodes, at least one."""

    @property
    def memory_bytes(self) -> int:
        """The memory of all nodes."""
        return sum(node.memory_bytes for node in self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A GPU or NPU that the operating system or its driver lists, whether or not Shoal can use it."""

    title: str
    """The device's name."""
    kind: DeviceKind
    vendor: str
    """`nvidia`, `amd`, `intel`, `apple`, `qualcomm` or another name; empty: not known."""
    memory_bytes: int | None
    """The device's memory; None: not known, or shared with the machine."""
    driver: str | None
    """The driver and its version; None: no driver is bound to the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderDevice:
    """A device that an execution provider of an environment offers."""

    provider: str
    """The provider's short name."""
    index: int
    kind: DeviceKind
    title: str
    """The device's name; empty: the provider does not tell."""
    package: str
    """The package that contains the provider, with its version."""
    problem: str | None
    """Why no session can be opened on it; None: one was opened."""

    @property
    def name(self) -> str:
        """The device's name for `--device`."""
        return f"{self.provider}:{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDevices:
    """The processor, the hardware and the usable devices of a machine."""

    processor: Processor
    hardware: tuple[Hardware, ...]
    devices: tuple[ProviderDevice, ...]
    runtime: str = ""
    """The version of ONNX Runtime in the environment that was asked."""
    clash: tuple[str, ...] = ()
    """The packages that share the module name `onnxruntime`, if there are several."""


_PROVIDERS_OF = {
    "nvidia": ("cuda", "tensorrt-rtx", "tensorrt", "webgpu"),
    "amd": ("migraphx", "webgpu", "rocm"),
    "intel": ("openvino", "webgpu"),
    "apple": ("coreml", "mlx", "webgpu"),
}
"""The providers for the devices of a vendor, the fastest first. WebGPU reaches those of other vendors."""
_DRIVER_OF = {
    "nvidia": "install NVIDIA's driver, so that nvidia-smi lists it",
    "amd": "load the amdgpu driver of the kernel",
    "intel": "load the i915, xe or intel_vpu driver of the kernel",
}


def missing_lines(found: MachineDevices) -> tuple[str, ...]:
    """One line for each device that cannot be used: what it is, and what to install."""
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
