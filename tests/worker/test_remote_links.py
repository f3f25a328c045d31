"""Neighbours on other machines that do not come: which ones is told."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.comm.tls.tls_identity import ClusterAuthority
from shoal.comm.tls.tls_listener import TlsListener
from shoal.errors import WorkerLost
from shoal.protocol.worker_messages import Generation, Neighbor, Wire
from shoal.worker.remote_links import TlsConnector, format_where
from tests.worker.test_life import load_message

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
    generation = Generation(1)
    match what:
        case "upstream":
            source = Neighbor(stage=1, where="/1/stage-2/shard-0", name="stage 1 on h1")
            wire = Wire(generation=generation, sources=(source,))
        case "downstream":
            consumer = Neighbor(stage=3, where=format_where(nobody, "1/stage-3/shard-0"), name="stage 3 on h3")
            wire = Wire(generation=generation, consumers=(consumer,))
        case _:
            group = tuple(
                Neighbor(stage=2, where=format_where(nobody, "stage-2"), name=f"shard {rank} on h{rank}")
                for rank in range(2)
            )
            wire = Wire(generation=generation, group=group)
    authority = ClusterAuthority()
    listener = TlsListener(authority.issue(), host="127.0.0.1")
    try:
        connector = TlsConnector(listener, authority.issue(), timeout_s=_SHORT_S)
        with pytest.raises(WorkerLost, match=re.escape(complaint)):
            connector.connect(wire, load_message(Path("unused"), rank=1 if what == "lower rank" else 0))
    finally:
        listener.close()
