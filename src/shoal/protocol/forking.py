"""What the head and its fork server say to each other, over two sockets.

A request for a worker is one datagram: the names of the modules that it needs and what to call it, with three
descriptors: the socket that is told about the worker, and the worker's control and handover. On the first, the server
sends the worker's process id with a descriptor of the process, and later how it ended. A datagram without descriptors
says what to import for workers that will be wanted soon.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAX_REQUEST_BYTES = 4096
_MAX_NAME_CHARS = 200
NUM_WORKER_FDS = 3
NUMBER = struct.Struct("<i")
"""A process id, or an exit status as `subprocess.Popen.returncode` has it."""


def pack_request(modules: Sequence[str], name: str = "") -> bytes:
    """A request. `name`: what the list of processes calls the worker."""
    return f"{' '.join(modules)}\n{name[:_MAX_NAME_CHARS]}".encode()


def unpack_request(request: bytes) -> tuple[list[str], str]:
    """Modules and name of a request."""
    modules, _, name = request.decode().partition("\n")
    return modules.split(), name
