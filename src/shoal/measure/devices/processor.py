"""This machine's processor: its name, its instruction sets, and its NUMA nodes as reported by Linux."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection
from pathlib import Path

import psutil

from shoal.core.plan.devices.description import NumaNode, Processor
from shoal.worker.memory_nodes import node_cpus

_SYSTEM = Path("/")
_TELLING = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""Flags of /proc/cpuinfo that matter for the speed of inference."""
_TOTAL = re.compile(r"MemTotal:\s+(\d+) kB")


def find_processor(system: Path = _SYSTEM, allowed: Collection[int] | None = None) -> Processor:
    """The processor of the machine whose `/proc` and `/sys` are in `system`.

    Args:
        system: the root of the file system, which differs in tests.
        allowed: CPU ids that may be used; None: those of this process.
    """
    usable = os.sched_getaffinity(0) if allowed is None else set(allowed)
    lines = [line.partition(":") for line in _read(system / "proc/cpuinfo").splitlines()]
    values = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    flags = set((values.get("flags") or values.get("Features") or "").split())
    return Processor(
        name=values.get("model name") or platform.processor() or platform.machine(),
        instruction_sets=tuple(flag for flag in _TELLING if flag in flags),
        nodes=_nodes(system, usable),
    )


def _nodes(system: Path, usable: Collection[int]) -> tuple[NumaNode, ...]:
    """The NUMA nodes with a usable core; a single node with everything if Linux reports none."""
    found: list[NumaNode] = []
    folder = system / "sys/devices/system/node"
    for number, near in node_cpus(folder).items():
        total = _TOTAL.search(_read(folder / f"node{number}" / "meminfo"))
        if cpus := tuple(cpu for cpu in near if cpu in usable):
            found.append(NumaNode(number=number, cpus=cpus, memory_bytes=int(total[1]) << 10 if total else 0))
    whole = NumaNode(number=0, cpus=tuple(sorted(usable)), memory_bytes=psutil.virtual_memory().total)
    return tuple(found) or (whole,)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
