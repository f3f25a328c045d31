"""File descriptors: as many as the system gives, and how many of them clients may have."""

from __future__ import annotations

import resource

MAX_CONNECTIONS = 4_096
"""A judgment: several times what may wait for one model. At most about 128 KiB of each is in memory before its turn."""
_SHARE = 2
"""Clients may have one in so many of the descriptors. The others are for workers, files, gRPC and TLS handshakes."""


def raise_limit() -> None:
    """Let this process, and those it starts, open as many as it may: the usual soft limit of 1024 is for `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """The number of connections that a server may have open at once: well below the limit of descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, soft // _SHARE))
