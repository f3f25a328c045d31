"""Messages between the head and its fork server.

A request for a worker is one datagram: the names of the modules that it needs and its name, with three descriptors: the
socket for reports about the worker, and the worker's control and handover sockets. On the first one the server sends
the worker's process id with a descriptor of the process, and later its exit status. A datagram without descriptors
tells which modules to import for workers that will be requested soon.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAX_REQUEST_BYTES = 4096
_MAX_NAME_CHARS = 200
NUM_WORKER_FDS = 3
NUMBER = struct.Struct("<i")
"""A process id, or an exit status in the form of `subprocess.Popen.returncode`."""


def pack_request(modules: Sequence[str], name: str = "") -> bytes:
    """Encode a request. `name`: the worker's name in the list of processes."""
    return f"{' '.join(modules)}\n{name[:_MAX_NAME_CHARS]}".encode()


def unpack_request(request: bytes) -> tuple[list[str], str]:
    """Decode the modules and the name of a request."""
    modules, _, name = request.decode().partition("\n")
    return modules.split(), name
