"""`python -m shoal.worker.remote_main HOST`: a worker that the head reaches over the network; not for use by hand.

Credentials come on standard input, so that nobody reads them from the list of processes; the port at which it listens
goes to standard output, as one line. The head's is the first connection, with the key "control".
"""

from __future__ import annotations

import argparse
import sys

import msgspec

from shoal.comm.tls_identity import Credentials
from shoal.comm.tls_listener import TlsListener
from shoal.errors import ShoalError
from shoal.worker.parent import die_with_parent
from shoal.worker.remote_links import TlsConnector
from shoal.worker.runtime import WorkerRuntime

CONTROL_KEY = "control"
_HEAD_TIMEOUT_S = 60.0
"""The head is told the port by whoever started this process, on another machine."""


def main() -> int:
    """Exit status 0 after Shutdown, 1 after an error that the head was told of, or without a head."""
    parser = argparse.ArgumentParser(prog="shoal.worker.remote_main", description=__doc__)
    parser.add_argument("host", help="address to listen on")
    arguments = parser.parse_args()
    die_with_parent()
    credentials = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Credentials)
    try:
        listener = TlsListener(credentials, host=arguments.host)
        print(listener.address[1], flush=True)
        control = listener.take(CONTROL_KEY, timeout_s=_HEAD_TIMEOUT_S)
        WorkerRuntime(control, TlsConnector(listener, credentials)).run()
    except ShoalError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
