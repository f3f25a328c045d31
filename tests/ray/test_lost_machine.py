"""A machine whose cable is pulled in the middle of streams: no request fails, and none says anything else. Plugged in
again, it has its layers again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ray.hosts import RayHosts
from tests.ray.serving import served, start_streams


@pytest.mark.parametrize("split", ["dp=2", "pp=2"])
def test_no_stream_fails(split: str, cluster: RayHosts, model: Path) -> None:
    lost = cluster.hosts[1]
    with served(cluster, model, split) as server:
        with start_streams(cluster, server.url) as undisturbed:
            expected = json.loads(undisturbed.communicate(timeout=60.0)[0].splitlines()[-1])
        with start_streams(cluster, server.url) as streams:
            assert streams.stdout is not None
            assert streams.stdout.readline() == "started\n"
            try:
                lost.set_link(False)
                said = json.loads(streams.stdout.readline())
            finally:
                lost.set_link(True)
        assert said == expected
        assert any("is lost" in line for line in server.lines), "the cable was pulled too late"
        if split == "pp=2":
            server.wait_for(f"joined: {lost.address}")
            server.wait_for(f"replica 0 is given back its workers on {cluster.hosts[0].address}, {lost.address}")
            server.wait_for("replica 0 goes on with other workers")
        with start_streams(cluster, server.url) as streams:
            assert json.loads(streams.communicate(timeout=60.0)[0].splitlines()[-1]) == expected
