"""Identification of this machine and build, for which measurements are valid."""

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
    """The properties on which a measurement depends, besides the model."""

    processor: str
    num_cores: int
    memory_bytes: int
    build: str
    """Versions of Shoal and ONNX Runtime, a digest of the native module, and settings forced by environment
    variables."""


@cache
def this_machine() -> Machine:
    """The machine on which this process runs."""
    return Machine(
        processor=_processor(),
        num_cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        build=f"shoal {_version('shoal-inference')}, onnxruntime {_version('onnxruntime')}, native {_native_digest()}"
        + forced_form(os.environ),
    )


def _processor() -> str:
    """The processor's model name and instruction sets, as hypervisors may hide either."""
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
    """Digest of the compiled module's file; `none` if everything runs in Python."""
    spec = find_spec("shoal._native")
    if spec is None or spec.origin is None:
        return "none"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
