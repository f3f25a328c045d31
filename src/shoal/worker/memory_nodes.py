"""NUMA nodes: which cores are near to which memory, and a worker's memory near to its cores.

Linux gives a page to the node whose core touches it first. That is the right one for a pinned worker, but for pages
that it takes while the node's memory is used by something else; and without a wish of its own it inherits whatever
policy the command was started with.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

_NODES = Path("/sys/devices/system/node")
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""Number of the system call. Source: Linux, arch/*/entry/syscalls and asm-generic/unistd.h."""
_PREFERRED = 1
"""MPOL_PREFERRED: this node as long as it has memory. Source: set_mempolicy(2)."""
_BITS = 64
_MOST_NODES = 1024


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """`0-2,5` as CPU ids. Source: the kernel's `Documentation/admin-guide/cputopology.rst`."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def node_cpus(folder: Path = _NODES) -> dict[int, tuple[int, ...]]:
    """CPU ids of each node with cores, by its number; nothing where Linux tells of none. `folder`: where it tells."""
    return {number: cpus for number, path in _node_folders(folder) if (cpus := parse_cpu_list(_read(path / "cpulist")))}


def node_of(cores: Collection[int], nodes: Mapping[int, Sequence[int]]) -> int | None:
    """The node that all of these cores are in; None: there are no cores, one node only, or they are in several."""
    if not cores or len(nodes) < 2:
        return None
    return next((number for number, cpus in nodes.items() if set(cores) <= set(cpus)), None)


def prefer_near_memory(cores: Collection[int]) -> None:
    """Memory of this process comes from the node of its cores from now on, if that is one of several and there is some.

    Where the system does not allow it (a container, say), Linux's own choice stays.
    """
    node = node_of(cores, node_cpus())
    number = _SET_MEMPOLICY.get(platform.machine())
    if node is None or number is None or node >= _MOST_NODES:
        return
    mask = (ctypes.c_ulong * (_MOST_NODES // _BITS))()
    mask[node // _BITS] = 1 << node % _BITS
    ctypes.CDLL(None).syscall(number, _PREFERRED, mask, ctypes.c_ulong(_MOST_NODES))


def _node_folders(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted(folder.glob("node[0-9]*"), key=lambda one: int(one.name[4:])):
        yield int(path.name[4:]), path


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
