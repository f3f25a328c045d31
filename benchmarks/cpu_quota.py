"""A process held to a part of a core, as a slower machine's or a busy neighbour's worker would be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CPU = Path("/sys/fs/cgroup/cpu")
"""version 1 of control groups, mounted where distributions mount it"""
_PERIOD_US = 100_000
"""Source: docs.docker.com, "Resource constraints": the period that `docker run --cpus` uses."""


def why_not() -> str | None:
    """Why no process can be held here; None where it can."""
    if not (_CPU / "tasks").exists():
        return f"{_CPU} is no version 1 control group"
    if not os.access(_CPU, os.W_OK):
        return f"only root may create control groups in {_CPU}"
    return None


@contextmanager
def held_to(share: float, pid: int) -> Iterator[None]:
    """Let all threads of a process have this share of one core, while the block runs. Raises OSError."""
    group = _CPU / f"shoal-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(round(share * _PERIOD_US)))
        (group / "cgroup.procs").write_text(str(pid))
        try:
            yield
        finally:
            (_CPU / "cgroup.procs").write_text(str(pid))
    finally:
        group.rmdir()
