"""Addresses of this machine that no other process uses."""

from __future__ import annotations

import os

from shoal.server.http.serve import bind


def own_loopback_address() -> str:
    """An address of the loopback interface for this process alone: a port that is free there stays free, whatever
    other programs bind meanwhile."""
    pid = os.getpid()
    return f"127.{100 + (pid >> 16) % 100}.{pid >> 8 & 255}.{pid & 255}"


def free_port() -> int:
    """One at the process's own address."""
    with bind(own_loopback_address(), 0) as sock:
        return sock.getsockname()[1]
