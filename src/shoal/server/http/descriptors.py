"""File descriptors: raises the process's limit, and says how many of them clients may use."""

from __future__ import annotations

import resource

MAX_CONNECTIONS = 4_096
"""A judgment: several times as many as may wait for one model. At most about 128 KiB of each is in memory before its
turn."""
_SHARE = 2
"""Clients may use one in this many descriptors. The others are for workers, files, gRPC and TLS handshakes."""


def raise_limit() -> None:
    """Raise this process's limit of open files, which its children inherit, to the hard limit: the usual soft limit of
    1024 is meant for `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """Most open connections of a server: well below the limit of descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, soft // _SHARE))
