"""Limiting a process to a share of its cores by the CPU quota of a control group (version 1 or 2).

Groups are named after the process that made them, so that those left behind by a killed process are found and removed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil

from shoal.errors import ConfigError

_PREFIX = "shoal-quota"
_PERIOD_US = 20_000
"""Period of the quota. A slower machine is slow all the time, but with Docker's 100 ms a step of 10 ms would run at
full speed or wait for 50 ms. The kernel hands out quota in slices of 5 ms, so shorter periods would be inaccurate."""
_LEAST_QUOTA_US = 1_000
"""Quotas and periods are at least 1 ms, periods at most 1 s. Source: the kernel's scheduler/sched-bwc."""
_LONGEST_PERIOD_US = 1_000_000
_REMOVE_TIMEOUT_S = 2.0
_RETRY_S = 0.01
_serials = count()
"""Distinguishes the groups of one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hierarchy:
    """The control group hierarchy in which groups with a CPU quota are made."""

    root: Path
    version: int

    def set_quota(self, group: Path, quota_us: int, period_us: int) -> None:
        """Set a group's quota. Raises OSError."""
        if self.version == 1:
            (group / "cpu.cfs_period_us").write_text(str(period_us))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")


def why_not() -> str | None:
    """Why no quota can be set on this machine, as the end of a sentence; None if it can."""
    try:
        _find_hierarchy()
    except ConfigError as error:
        return str(error)
    return None


@contextmanager
def held(pid: int, share: float, *, num_cores: int = 1) -> Iterator[None]:
    """Limit all threads of a process together to a share of its cores' time while the block runs.

    Args:
        pid: a process of this user; it may end meanwhile.
        share: above 0, at most 1. At 1 nothing is limited.
        num_cores: the number of cores on which it computes.

    Raises:
        ConfigError: the share is out of range, or this process may make no control groups.
        ProcessLookupError: there is no such process.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"a CPU quota of {share:g} is not above 0 and at most 1")
    if share == 1:
        yield
        return
    hierarchy = _find_hierarchy()
    _remove_orphans(hierarchy.root)
    group = hierarchy.root / f"{_PREFIX}-{os.getpid()}-{next(_serials)}"
    former = _group_of(pid, hierarchy)
    group.mkdir()
    try:
        hierarchy.set_quota(group, *quota_and_period_us(share * num_cores))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        _remove(group, former)


def quota_and_period_us(cores: float) -> tuple[int, int]:
    """The quota for the time of `cores` cores, and its period. Both are at least the kernel's minimum, so fewer than
    0.001 cores become 0.001."""
    period_us = min(_LONGEST_PERIOD_US, max(_PERIOD_US, round(_LEAST_QUOTA_US / cores)))
    return max(_LEAST_QUOTA_US, round(cores * period_us)), period_us


def _find_hierarchy() -> _Hierarchy:
    """Find the mounted hierarchy that has the CPU controller. Raises ConfigError."""
    for root, kind, options in _cgroup_mounts():
        if kind == "cgroup" and "cpu" in options:
            return _writable(_Hierarchy(root=root, version=1))
    for root, kind, _ in _cgroup_mounts():
        if kind == "cgroup2" and "cpu" in _words(root / "cgroup.controllers"):
            hierarchy = _writable(_Hierarchy(root=root, version=2))
            _enable_cpu(root)
            return hierarchy
    raise ConfigError("a CPU quota needs a control group hierarchy with the cpu controller, and none is mounted here")


def _cgroup_mounts() -> Iterator[tuple[Path, str, list[str]]]:
    """Mount point, type and options of each control group mount."""
    with suppress(FileNotFoundError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, where, kind, options = line.split()[:4]
            if kind in ("cgroup", "cgroup2"):
                yield Path(where), kind, options.split(",")


def _writable(hierarchy: _Hierarchy) -> _Hierarchy:
    if not os.access(hierarchy.root, os.W_OK) or os.statvfs(hierarchy.root).f_flag & os.ST_RDONLY:
        raise ConfigError(f"a CPU quota needs root: no control group may be made in {hierarchy.root}")
    return hierarchy


def _enable_cpu(root: Path) -> None:
    """Pass the CPU controller on to child groups, as version 2 requires. Raises ConfigError."""
    if "cpu" in _words(root / "cgroup.subtree_control"):
        return
    try:
        (root / "cgroup.subtree_control").write_text("+cpu")
    except OSError as error:
        raise ConfigError(f"a CPU quota needs the cpu controller, which {root} does not pass on: {error}") from error


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _group_of(pid: int, hierarchy: _Hierarchy) -> Path:
    """The current group of a process, to which it is moved back later. Raises ProcessLookupError."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"no process {pid}") from error
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if (hierarchy.version == 1 and "cpu" in controllers.split(",")) or (hierarchy.version == 2 and not controllers):
            return hierarchy.root / path.lstrip("/")
    return hierarchy.root


def _remove_orphans(root: Path) -> None:
    """Remove groups whose maker is gone."""
    for group in root.glob(f"{_PREFIX}-*-*"):
        maker = group.name.split("-")[-2]
        if maker.isdigit() and not psutil.pid_exists(int(maker)):
            _remove(group, root)


def _remove(group: Path, former: Path) -> None:
    """Move all processes of a group back and remove it. A process that is being killed stays in it for a moment."""
    deadline_s = time.monotonic() + _REMOVE_TIMEOUT_S
    while True:
        for pid in _words(group / "cgroup.procs"):
            _move(pid, (former, group.parent))
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def _move(pid: str, targets: tuple[Path, ...]) -> None:
    """Move a process into the first of the groups that accepts it. Does nothing if it is gone."""
    for target in targets:
        with suppress(OSError):
            (target / "cgroup.procs").write_text(pid)
            return
