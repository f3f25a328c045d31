"""Drills of real servers: workers go and come back, and no request is lost; servers that allow none refuse."""

from pathlib import Path

import pytest

from shoal.bench.drill.run import run_drill
from shoal.errors import ConfigError, WorkerLost
from tests.integration.served import served
from tests.model.tiny_models import make_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny"))


def test_workers_go_and_come_back(tiny: Path) -> None:
    with served(tiny, "--split", "dp=2", "--allow-drill", "--api-key", "secret") as server:
        before = server.workers()
        told = []
        report = run_drill(server.url, hows=("kill",), api_key="secret", tell=told.append)
        after = server.workers()
        with pytest.raises(ConfigError, match="wants a key"):
            run_drill(server.url, api_key=None)
    assert [(row.target.replica, row.how) for row in report.rows] == [(0, "kill"), (1, "kill")]
    assert told == list(report.rows)
    assert (report.num_lost, report.first_error) == (0, None)
    assert report.num_requests >= 4
    assert len(after) == len(before) == 2
    assert not set(before) & set(after)
    assert all(row.seen_s > 0 and row.predicted_s > 0 for row in report.rows)


def test_a_server_that_allows_none_refuses(tiny: Path) -> None:
    with served(tiny, "--split", "dp=2") as server, pytest.raises(ConfigError, match="start it with --allow-drill"):
        run_drill(server.url)


def test_nobody_there() -> None:
    with pytest.raises(WorkerLost, match="no server answers"):
        run_drill("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="no address"):
        run_drill("nonsense")
