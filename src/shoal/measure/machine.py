"""What this machine and this build are: measurements hold for both and for nothing else."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil

from shoal.model.decoder.forced_form import forced_form


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a measurement depends on, besides the model."""

    processor: str
    num_cores: int
    memory_bytes: int
    build: str
    """versions of Shoal and ONNX Runtime, a digest of the native module, and what the environment forces on it"""


@cache
def this_machine() -> Machine:
    """The one that this process runs on. It does not change while the process lives."""
    return Machine(
        processor=_processor(),
        num_cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        build=f"shoal {_version('shoal-inference')}, onnxruntime {_version('onnxruntime')}, native {_native_digest()}"
        + forced_form(os.environ),
    )


def _processor() -> str:
    """The model's name and its instruction sets: hypervisors hide either."""
    lines = _cpuinfo()
    name = next((value for key, value in lines if key == "model name"), "unknown")
    flags = next((value for key, value in lines if key in ("flags", "Features")), "")
    return f"{name} ({hashlib.sha256(flags.encode()).hexdigest()[:8]})"


def _cpuinfo() -> list[tuple[str, str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    pairs = (line.partition(":") for line in text.splitlines())
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _native_digest() -> str:
    """Of the compiled module's file; `none` where everything runs in Python."""
    spec = find_spec("shoal._native")
    if spec is None or spec.origin is None:
        return "none"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
