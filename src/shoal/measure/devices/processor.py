"""This machine's processor: its name, its instruction sets, and its NUMA nodes as Linux shows them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection
from pathlib import Path

import psutil

from shoal.core.plan.devices.description import NumaNode, Processor

_SYSTEM = Path("/")
_TELLING = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""Flags of /proc/cpuinfo that tell how fast inference can be."""
_TOTAL = re.compile(r"MemTotal:\s+(\d+) kB")


def find_processor(system: Path = _SYSTEM, allowed: Collection[int] | None = None) -> Processor:
    """The processor of the machine whose `/proc` and `/sys` lie in `system`.

    Args:
        system: the root of the file system; another one in tests.
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
    """Nodes with a usable core; one of everything where Linux tells of none."""
    found: list[NumaNode] = []
    for folder in sorted((system / "sys/devices/system/node").glob("node[0-9]*"), key=lambda one: int(one.name[4:])):
        cpus = tuple(cpu for cpu in parse_cpu_list(_read(folder / "cpulist")) if cpu in usable)
        total = _TOTAL.search(_read(folder / "meminfo"))
        if cpus:
            memory_bytes = int(total[1]) << 10 if total else 0
            found.append(NumaNode(number=int(folder.name[4:]), cpus=cpus, memory_bytes=memory_bytes))
    whole = NumaNode(number=0, cpus=tuple(sorted(usable)), memory_bytes=psutil.virtual_memory().total)
    return tuple(found) or (whole,)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """`0-2,5` as CPU ids. Source: the kernel's `Documentation/admin-guide/cputopology.rst`."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
