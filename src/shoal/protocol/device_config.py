"""The device on which a worker computes, other than the processor: chosen by the head and opened by the worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

FloatPrecision = Literal["fp32", "fp16"]
FLOAT_PRECISIONS: tuple[FloatPrecision, ...] = get_args(FloatPrecision)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """A GPU, NPU or other device that is used through an execution provider of ONNX Runtime."""

    provider: str
    """Short name of the provider, such as `webgpu`: a key of `core.plan.devices.providers.PROVIDERS`."""
    index: int = 0
    """The index among the provider's devices."""
    options: tuple[tuple[str, str], ...] = ()
    """Options that are passed to the provider: (name, value)."""
    memory_bytes: int | None = None
    """Bytes of the device's memory that the worker may use; None: all."""
    precision: FloatPrecision = "fp32"
    """The precision of a language model's floats: activations, keys and values, and weights that are not 4-bit
    blocks."""

    @property
    def name(self) -> str:
        """The device's name in `--device`, such as `webgpu:0`."""
        return f"{self.provider}:{self.index}"
