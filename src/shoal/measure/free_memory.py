"""Memory that this process and its children may take: the computer's, and of that what their control groups allow.

A container of 2 GB on a computer of 64 GB sees all 64 as free, and whoever takes more than the 2 is killed.
Source: the kernel's admin-guide/cgroup-v2 ("Memory Interface Files") and cgroup-v1/memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil


class _Names(NamedTuple):
    """Files of a group, and which entries of its statistics the kernel takes back when memory is short."""

    limit: str
    usage: str
    reclaimable: tuple[str, ...]


_NAMES = {
    "cgroup": _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    "cgroup2": _Names("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
}


def free_memory_bytes(proc: Path = Path("/proc")) -> int:
    """What can be taken without swapping and without being killed for it. `proc`: where procfs is mounted."""
    of_groups = [_room(group, names) for group, names in _groups(proc / "self")]
    return max(0, min([psutil.virtual_memory().available, *(room for room in of_groups if room is not None)]))


def _groups(process: Path) -> Iterator[tuple[Path, _Names]]:
    """This process's memory group and all groups that it lies in, as far as they can be seen here."""
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
    """The process's group by controller; version 2 has one for all, whose name is empty here."""
    for line in _lines(file):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(file: Path) -> Iterator[tuple[str, Path, str, list[str]]]:
    """The group that is mounted, where, of which kind, and its options. Source: proc_pid_mountinfo(5)."""
    for line in _lines(file):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split()[:3]
        if kind in _NAMES:
            yield fields[3], Path(fields[4]), kind, options.split(",")


def _room(group: Path, names: _Names) -> int | None:
    """What a group may still take; None where it has no limit, or does not say."""
    limit, usage = _number(group / names.limit), _number(group / names.usage)
    if limit is None or usage is None:
        return None
    statistics = dict(line.split()[:2] for line in _lines(group / "memory.stat") if line.count(" ") == 1)
    reclaimable = sum(int(statistics.get(name, 0)) for name in names.reclaimable)
    return limit - max(0, usage - reclaimable)


def _number(file: Path) -> int | None:
    """None for `max` and for what cannot be read."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
