"""The name of a forked worker in the system's list of processes."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

_COMMAND = b"shoal-worker"
_PR_SET_NAME = 15
"""Source: prctl(2)."""
_ARG_START, _ARG_END = 48 - 3, 49 - 3
"""Where the memory of a process's arguments begins and ends, as fields after its name. Source: proc_pid_stat(5)."""


def set_title(name: str) -> None:
    """Let `ps` and `top` show `shoal-worker NAME`; a fork would show the command that it was forked from.

    The name overwrites that command, and is truncated if it is longer. Only on Linux; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, _COMMAND, 0, 0, 0)
        with suppress(OSError):
            fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
            start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
            title = b"%b %b" % (_COMMAND, name.encode())
            ctypes.memmove(start, title[: max(0, end - start - 1)].ljust(end - start, b"\0"), end - start)
