"""Libraries that a provider needs besides ONNX Runtime's own: loaded before a session is opened, named if they are
missing.

ONNX Runtime leaves out a provider whose libraries do not load, and computes on the processor without an error.
"""

from __future__ import annotations

import ctypes
import io
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import onnxruntime as ort

from shoal.core.plan.devices.providers import PROVIDERS
from shoal.errors import ConfigError
from shoal.model.device.failures import unusable
from shoal.protocol.device_config import DeviceConfig

_FATAL_ONLY = 4


@cache
def bring_libraries(provider: str) -> None:
    """Load libraries from the provider's own packages if ONNX Runtime does not find them by itself, and keep it from
    writing to stderr.

    NVIDIA's packages put CUDA's libraries where no linker looks. Source: ONNX Runtime, CUDA Execution Provider,
    preloading of shared libraries.
    """
    ort.set_default_logger_severity(_FATAL_ONLY)
    if PROVIDERS[provider].build == "onnxruntime-gpu" and hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()


def left_out(device: DeviceConfig) -> ConfigError:
    """The error for a provider that ONNX Runtime has, but left out of a session: why, and what to do."""
    name = PROVIDERS[device.provider].runtime_name
    why = _load_failure(device.provider)
    if why is None:
        return ConfigError(f"{device.name}: ONNX Runtime skipped {name} and would compute on the processor")
    way_out = unusable(why) or f"{PROVIDERS[device.provider].install}, with all that it needs"
    return ConfigError(f"{device.name}: {name} cannot be loaded ({why}): {way_out}")


def _load_failure(provider: str) -> str | None:
    """The linker's message about a provider's library; None: there is no message, or no such library."""
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if not library.exists():
        return None
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None
