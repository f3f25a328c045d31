"""System resources that a process holds."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Counts and bytes of one process."""

    fds: int
    threads: int
    children: int
    """Child processes, zombies included."""
    memfds: int
    """Descriptors of anonymous shared memory."""
    memfd_bytes: int
    shm_files: int
    """Files in /dev/shm, of all processes."""
    rss_bytes: int

    def to_dict(self) -> dict[str, int]:
        """The figures as plain data, for JSON."""
        return asdict(self)


def resources_of(pid: int) -> Resources:
    """The current resources of a process. Raises psutil.NoSuchProcess."""
    process = psutil.Process(pid)
    memfd_bytes = _memfd_bytes(pid)
    with process.oneshot():
        return Resources(
            fds=process.num_fds(),
            threads=process.num_threads(),
            children=len(process.children(recursive=True)),
            memfds=len(memfd_bytes),
            memfd_bytes=sum(memfd_bytes),
            shm_files=len(os.listdir("/dev/shm")),
            rss_bytes=process.memory_info().rss,
        )


def _memfd_bytes(pid: int) -> list[int]:
    """Bytes of anonymous memory of each such descriptor."""
    sizes: list[int] = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(entry).startswith("/memfd:"):
                sizes.append(os.stat(entry).st_size)
    return sizes
