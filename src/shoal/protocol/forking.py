"""What the head and its fork server say to each other, over two sockets.

A request for a worker is one datagram: the names of the modules that it needs, separated by spaces, with three
descriptors: the socket that is told about the worker, and the worker's control and handover. On the first, the server
sends the worker's process id with a descriptor of the process, and later how it ended. A datagram without descriptors
says what to import for workers that will be wanted soon.
"""

from __future__ import annotations

import struct

MAX_REQUEST_BYTES = 4096
NUM_WORKER_FDS = 3
NUMBER = struct.Struct("<i")
"""A process id, or an exit status as `subprocess.Popen.returncode` has it."""
