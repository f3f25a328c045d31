"""Everything that passes a host's cable, as bytes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ray.hosts import Host

_PROGRAM = """
import socket, sys
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
tap.bind(("eth0", 0))
print("listening", flush=True)
with open(sys.argv[1], "wb") as file:
    while True:
        file.write(tap.recv(1 << 17))
        file.flush()
"""
"""Source: packet(7)."""


@contextmanager
def captured(host: Host, path: Path) -> Iterator[None]:
    """What passes while the block runs is in the file afterwards."""
    with subprocess.Popen(host.command(sys.executable, "-c", _PROGRAM, str(path)), stdout=subprocess.PIPE) as tap:
        assert tap.stdout is not None
        try:
            assert tap.stdout.readline()
            yield
        finally:
            tap.kill()
