"""NUMA nodes: which cores are close to which memory, and how to keep a worker's memory close to its cores.

Linux places a page on the node whose core touches it first. For a pinned worker that is the right one, unless the
node's memory is full at that time; but a process also inherits the policy that the command was started with.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

_NODES = Path("/sys/devices/system/node")
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""Number of the system call set_mempolicy. Source: Linux, arch/*/entry/syscalls and asm-generic/unistd.h."""
_PREFERRED = 1
"""MPOL_PREFERRED: use this node as long as it has memory. Source: set_mempolicy(2)."""
_BITS = 64
_MOST_NODES = 1024


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """CPU ids from a list such as `0-2,5`. Source: the kernel's `Documentation/admin-guide/cputopology.rst`."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def node_cpus(folder: Path = _NODES) -> dict[int, tuple[int, ...]]:
    """CPU ids of each node with cores, by its number; empty if Linux lists no nodes. `folder`: where Linux lists
    them."""
    return {number: cpus for number, path in _node_folders(folder) if (cpus := parse_cpu_list(_read(path / "cpulist")))}


def node_of(cores: Collection[int], nodes: Mapping[int, Sequence[int]]) -> int | None:
    """The node that contains all of these cores; None: there are no cores, there is only one node, or they are on
    several."""
    if not cores or len(nodes) < 2:
        return None
    return next((number for number, cpus in nodes.items() if set(cores) <= set(cpus)), None)


def prefer_near_memory(cores: Collection[int]) -> None:
    """From now on allocate this process's memory on the node of its cores, if that is one of several and has some free.

    If the system does not allow this (in a container, for example), Linux's own choice stays.
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
