"""A link that is still being made."""

from __future__ import annotations

import select

import pytest

from shoal.cluster.remote.deferred_link import DeferredLink
from shoal.comm.link import Link
from shoal.errors import WorkerLost


def test_that_there_will_be_no_link_is_told_to_who_receives() -> None:
    """Also where that was known before anything was sent."""

    def connect() -> Link:
        raise WorkerLost("refused")

    link = DeferredLink(connect, "connecting")
    assert select.select([link.fileno()], [], [], 30.0)[0]
    link.send([b"load"], timeout_s=0.0)
    for _ in range(2):
        with pytest.raises(WorkerLost, match="refused"):
            link.receive(timeout_s=0.0)
    link.close()
