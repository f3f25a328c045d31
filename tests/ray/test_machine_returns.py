"""A machine that leaves in the middle of streams and comes back: no request fails, and it has its layers again."""

from __future__ import annotations

import json
from pathlib import Path

from tests.ray.hosts import RayHosts
from tests.ray.serving import served, start_streams


def test_a_pipeline_is_over_the_same_machines_again(cluster: RayHosts, model: Path) -> None:
    leaving = cluster.hosts[1]
    with served(cluster, model, "pp=2") as server:
        with start_streams(cluster, server.url) as undisturbed:
            expected = json.loads(undisturbed.communicate(timeout=60.0)[0].splitlines()[-1])
        with start_streams(cluster, server.url) as streams:
            assert streams.stdout is not None
            assert streams.stdout.readline() == "started\n"
            cluster.leave(leaving)
            try:
                said = json.loads(streams.stdout.readline())
            finally:
                cluster.join(leaving)
        assert said == expected
        server.wait_for("replica 0 goes on with other workers")
        assert f"replica 0 is given back its workers on {cluster.hosts[0].address}, {leaving.address}\n" in server.lines
        with start_streams(cluster, server.url) as streams:
            assert json.loads(streams.communicate(timeout=60.0)[0].splitlines()[-1]) == expected
