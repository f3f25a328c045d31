"""The device that a worker computes on, where that is not the processor: the head says it, the worker opens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

FloatPrecision = Literal["fp32", "fp16"]
FLOAT_PRECISIONS: tuple[FloatPrecision, ...] = get_args(FloatPrecision)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One GPU, NPU or other device, reached through an execution provider of ONNX Runtime."""

    provider: str
    """Short name of the provider, such as `webgpu`: a key of `core.plan.devices.providers.PROVIDERS`."""
    index: int = 0
    """Which of the provider's devices."""
    options: tuple[tuple[str, str], ...] = ()
    """Options that the provider gets as they are: names and values."""
    memory_bytes: int | None = None
    """Bytes of the device's memory that the worker may take; None: as many as there are."""
    precision: FloatPrecision = "fp32"
    """Of a language model's floats there: activations, keys and values, and weights that are no blocks of 4 bits."""

    @property
    def name(self) -> str:
        """As `--device` says it, such as `webgpu:0`."""
        return f"{self.provider}:{self.index}"
