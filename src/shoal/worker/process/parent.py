"""A worker's tie to the process that started it."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def die_with_parent() -> None:
    """Linux ends this process when the head ends, even by SIGKILL; elsewhere the closed control link does.

    Strictly it is the *thread* that started this process whose end counts.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
