"""Neighbours on other machines that do not come: which ones is told."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from shoal.comm.tls.tls_identity import ClusterAuthority
from shoal.comm.tls.tls_listener import TlsListener
from shoal.errors import WorkerLost
from shoal.protocol.messages import Generation, Wire
from shoal.worker.remote_links import TlsConnector, make_name
from tests.worker.test_runtime import load_message

pytest.importorskip("cryptography")
_SHORT_S = 0.05
"""A deadline that is meant to pass."""


@pytest.fixture
def nobody() -> Iterator[tuple[str, int]]:
    """An address at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("upstream", "not reached by stage 1 on h1 within 0.05 s"),
        ("downstream", "stage 3 on h3 was not reached: no link to 127.0.0.1:"),
        ("lower rank", "shard 0 on h0 was not reached: no link to 127.0.0.1:"),
        ("higher rank", "shard 1 on h1 did not connect before the deadline"),
    ],
)
def test_a_neighbour_that_is_not_reached_is_named(what: str, complaint: str, nobody: tuple[str, int]) -> None:
    group = (make_name(nobody, "stage-2"), make_name(nobody, "stage-2"))
    wire = Wire(generation=Generation(1), group_names=("shard 0 on h0", "shard 1 on h1"))
    match what:
        case "upstream":
            wire = structs.replace(wire, upstream="/1/stage-2/shard-0", upstream_name="stage 1 on h1")
        case "downstream":
            names = (make_name(nobody, "1/stage-3/shard-0"),)
            wire = structs.replace(wire, downstream=names, downstream_names=("stage 3 on h3",))
        case _:
            wire = structs.replace(wire, group=group)
    authority = ClusterAuthority()
    listener = TlsListener(authority.issue(), host="127.0.0.1")
    try:
        connector = TlsConnector(listener, authority.issue(), timeout_s=_SHORT_S)
        with pytest.raises(WorkerLost, match=re.escape(complaint)):
            connector.connect(wire, load_message(Path("unused"), rank=1 if what == "lower rank" else 0))
    finally:
        listener.close()
