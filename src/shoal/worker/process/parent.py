"""A worker's tie to the process that started it."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def die_with_parent() -> None:
    """Let Linux end this process when the head ends, even by SIGKILL; on other systems the closed control link does it.

    Strictly speaking, what counts is the end of the *thread* that started this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
