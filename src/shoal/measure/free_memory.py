"""Memory that this process and its children may allocate, limited by the computer and by their control groups.

A container of 2 GB on a computer of 64 GB sees all 64 GB as free, but is killed if it uses more than 2 GB. Source: the
kernel's admin-guide/cgroup-v2 ("Memory Interface Files") and cgroup-v1/memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil


class _Names(NamedTuple):
    """Files of a group, and the entries of its statistics that the kernel can reclaim."""

    limit: str
    usage: str
    reclaimable: tuple[str, ...]


_NAMES = {
    "cgroup": _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    "cgroup2": _Names("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
}


def free_memory_bytes(proc: Path = Path("/proc")) -> int:
    """Bytes that can be allocated without swapping or being killed. `proc` is the mount point of procfs."""
    of_groups = [_room(group, names) for group, names in _groups(proc / "self")]
    return max(0, min([psutil.virtual_memory().available, *(room for room in of_groups if room is not None)]))


def _groups(process: Path) -> Iterator[tuple[Path, _Names]]:
    """The memory group of this process and all its parents, as far as they are visible."""
    paths = dict(_paths(process / "cgroup"))
    for mounted_group, mount, kind, options in _mounts(process / "mountinfo"):
        path = paths.get("" if kind == "cgroup2" else "memory")
        if path is None or (kind == "cgroup" and "memory" not in options):
            continue
        inner = Path(path.removeprefix(mounted_group) if mounted_group != "/" else path)
        for group in (inner, *inner.parents):
            folder = mount / str(group).lstrip("/")
            if (folder / _NAMES[kind].limit).exists():
                yield folder, _NAMES[kind]


def _paths(file: Path) -> Iterator[tuple[str, str]]:
    """Pairs of controller and the process's group. Version 2 has one group for all; its controller is empty here."""
    for line in _lines(file):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(file: Path) -> Iterator[tuple[str, Path, str, list[str]]]:
    """Mounted group, mount point, file system type and options. Source: proc_pid_mountinfo(5)."""
    for line in _lines(file):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split()[:3]
        if kind in _NAMES:
            yield fields[3], Path(fields[4]), kind, options.split(",")


def _room(group: Path, names: _Names) -> int | None:
    """Bytes that a group may still allocate; None: it has no limit, or it is unknown."""
    limit, usage = _number(group / names.limit), _number(group / names.usage)
    if limit is None or usage is None:
        return None
    statistics = dict(line.split()[:2] for line in _lines(group / "memory.stat") if line.count(" ") == 1)
    reclaimable = sum(int(statistics.get(name, 0)) for name in names.reclaimable)
    return limit - max(0, usage - reclaimable)


def _number(file: Path) -> int | None:
    """The number in a file; None if it is `max` or cannot be read."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
