"""`python -m shoal.worker.remote_main HOST`: a worker that the head reaches over the network; not for use by hand.

Credentials come on standard input, so that the list of processes does not show them. One line goes to standard output:
the port on which the worker listens, or why it does not. The first connection is the head's, with the key "control"; a
worker to which nobody connects in time ends.
"""

from __future__ import annotations

import argparse
import sys

import msgspec

from shoal.comm.links.ports import ANY_PORT, parse_ports
from shoal.comm.tls.tls_identity import Credentials
from shoal.comm.tls.tls_listener import TlsListener
from shoal.errors import ShoalError
from shoal.worker.life import WorkerLife
from shoal.worker.process.parent import die_with_parent
from shoal.worker.remote_links import TlsConnector

CONTROL_KEY = "control"
_HEAD_TIMEOUT_S = 30.0
"""Whoever started this process, on another machine, tells the head the port, and the head connects at once."""


def main() -> int:
    """Exit status: 0 after Shutdown, 1 after an error that was reported to the head, or without a head."""
    parser = argparse.ArgumentParser(prog="shoal.worker.remote_main", description=__doc__)
    parser.add_argument("host", help="address to listen on")
    parser.add_argument("--ports", type=parse_ports, default=ANY_PORT, help="FIRST-LAST to choose from; any otherwise")
    parser.add_argument("--head-timeout", type=float, default=_HEAD_TIMEOUT_S, help="seconds to wait for the head")
    arguments = parser.parse_args()
    die_with_parent()
    credentials = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Credentials)
    try:
        listener = TlsListener(credentials, host=arguments.host, ports=arguments.ports)
    except (ShoalError, OSError) as error:
        print(error, flush=True)
        return 1
    print(listener.address[1], flush=True)
    try:
        control = listener.take(CONTROL_KEY, timeout_s=arguments.head_timeout)
        WorkerLife(control, TlsConnector(listener, credentials)).run()
    except ShoalError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
