"""What the page asks, and what nobody else may."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from shoal.errors import ConfigError
from shoal.executor.remote.strikes import Strike
from shoal.server.http.host_check import is_own_page
from shoal.server.web.demo import Victim, find_victim, strike
from shoal.server.web.questions import MAX_BODY_BYTES, KillBody
from tests.server.fakes import FakeEngine
from tests.server.running_server import run_server
from tests.server.web.plans import CHOICE, page

ASK = {"model": "tiny", "change": "links"}
KILL = {"model": "tiny", "replica": 0, "worker": 0}
STRIKE = {"model": "tiny", "machine": "a", "how": "cable"}


@pytest.fixture(scope="module")
def http() -> Generator[httpx.Client, None, None]:
    with run_server(FakeEngine(), page=page(is_demo=True)) as running, httpx.Client(base_url=running.url) as client:
        yield client


@contextmanager
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that only a signal ends soon."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        try:
            yield process
        finally:
            process.kill()


def model_of(*pids: int, machine: str | None = None) -> dict[str, Any]:
    workers = [{"replica": 0, "stage": stage, "shard": 0, "machine": machine} for stage in range(2)]
    return {"name": "tiny", "plan": {"workers": workers}, "replicas": [{"pids": [*pids]}]}


def test_the_page_hears_how_models_were_planned(http: httpx.Client) -> None:
    assert http.get("/status/page").json() == {
        "is_demo": True,
        "models": [{"name": "tiny", "choice": CHOICE, "machines": ["a", "b"]}],
    }


def test_the_planner_is_asked_once_for_one_question() -> None:
    options = page()
    with run_server(FakeEngine(), page=options) as running, httpx.Client(base_url=running.url) as http:
        first = http.post("/status/what-if", json=ASK)
        assert (first.status_code, first.json()["questions"]) == (200, 1)
        assert http.post("/status/what-if", json=ASK).json() == first.json()
        assert http.post("/status/what-if", json=ASK | {"factor": 2}).json()["questions"] == 2
        refused = http.post("/status/what-if", json=ASK | {"change": "remove", "like": "a"})
        assert (refused.status_code, refused.json()["reason"]) == (400, "it fits nowhere")


def test_a_question_that_was_not_answered_in_time_may_be_asked_again() -> None:
    with run_server(FakeEngine(), page=page(num_late=1)) as running, httpx.Client(base_url=running.url) as http:
        late = http.post("/status/what-if", json=ASK)
        assert (late.status_code, late.json()["reason"]) == (503, "no answer within 20 s")
        assert http.post("/status/what-if", json=ASK).json()["questions"] == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        ASK | {"change": "burn"},
        ASK | {"factor": 0},
        ASK | {"factor": 1e9},
        ASK | {"latency_s": -1},
        ASK | {"unknown": 1},
        ASK | {"model": "x" * 2000},
        {"model": "other", "change": "links"},
        [],
    ],
)
def test_questions_that_make_no_sense_are_refused(http: httpx.Client, body: object) -> None:
    answer = http.post("/status/what-if", json=body)
    assert answer.status_code == 400
    assert answer.json()["reason"]


@pytest.mark.parametrize("path", ["/status/what-if", "/status/kill", "/status/strike"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_pages_of_other_sites_change_nothing(
    http: httpx.Client, path: str, headers: dict[str, str], status: int
) -> None:
    """Although nothing else guards a server that listens for everybody."""
    body = {"kill": KILL, "strike": STRIKE, "what-if": ASK}[path.rpartition("/")[2]]
    assert http.post(path, json=body, headers=headers).status_code == status


def test_bodies_have_a_bound(http: httpx.Client) -> None:
    content = b'{"model": "' + b"x" * MAX_BODY_BYTES
    answer = http.post("/status/kill", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("host", "origin", "is_own"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("10.0.0.7:8000", "http://10.0.0.7:8000", True),
        ("Shoal.Example:8000", "http://shoal.example:8000", True),
        ("localhost", None, True),
        ("other.example:8000", "http://other.example:8000", False),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", False),
        ("", None, False),
    ],
)
def test_whose_page_asks(host: str, origin: str | None, is_own: bool) -> None:
    headers = Headers({"host": host} | ({"origin": origin} if origin else {}))
    assert is_own_page(headers, {"shoal.example"}) is is_own


@pytest.mark.parametrize(
    "path", ["/status/page", "/status/history", "/status/what-if", "/status/kill", "/status/strike"]
)
def test_every_call_needs_the_key(path: str) -> None:
    with run_server(FakeEngine(), page=page(is_demo=True), api_key="secret") as running:
        method = "POST" if path.endswith(("what-if", "kill", "strike")) else "GET"
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert httpx.request(method, running.url + path, json=KILL, headers=headers).status_code == 401


def test_without_a_demo_nobody_kills() -> None:
    with run_server(FakeEngine(), page=page()) as running:
        assert httpx.post(f"{running.url}/status/kill", json=KILL).status_code == 404
        assert httpx.post(f"{running.url}/status/strike", json=STRIKE).status_code == 404


def test_a_worker_is_killed_and_another_hangs() -> None:
    with victim() as first, victim() as other:
        models = [model_of(first.pid, other.pid)]
        strike(find_victim(models, KillBody(**KILL)).pid, "kill")
        assert first.wait(30) == -signal.SIGKILL
        strike(find_victim(models, KillBody(**KILL | {"worker": 1})).pid, "stop")
        _, status = os.waitpid(other.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
    with pytest.raises(ConfigError, match="has just ended"):
        strike(first.pid, "kill")


class StruckMachines:
    """Implements `MachineState`: remembers what is done to its machines."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.struck: list[tuple[str, Strike]] = []

    def describe(self) -> list[dict[str, str]]:
        return [{"name": name, "state": "has workers"} for name in ("a", "b")]

    def strike(self, machine: str, strike: Strike) -> None:
        if self.struck:
            raise ConfigError("the cable of this machine is pulled already")
        self.struck.append((machine, strike))


def test_workers_of_other_machines_are_taken_there() -> None:
    assert find_victim([model_of(1, 2, machine="b")], KillBody(**KILL | {"worker": 1})) == Victim(pid=2, machine="b")
    machines = StruckMachines()
    with run_server(FakeEngine(), page=page(is_demo=True), machines=machines) as running:
        answer = httpx.post(f"{running.url}/status/kill", json=KILL | {"how": "stop"})
        again = httpx.post(f"{running.url}/status/kill", json=KILL)
    assert (answer.status_code, machines.struck) == (200, [("a", Strike(how="stop", pid=11))])
    assert (again.status_code, again.json()["reason"]) == (409, "the cable of this machine is pulled already")


def test_a_machines_cable_is_pulled() -> None:
    machines = StruckMachines()
    body = {"model": "tiny", "machine": "b", "how": "cable", "for_s": 3}
    with run_server(FakeEngine(), page=page(is_demo=True), machines=machines) as running:
        url = f"{running.url}/status/strike"
        assert httpx.post(url, json=body | {"for_s": 1e9}).status_code == 400
        assert httpx.post(url, json=body | {"how": "burn"}).status_code == 400
        stranger = httpx.post(url, json=body | {"machine": "c"})
        assert (stranger.status_code, "there: a, b" in stranger.json()["reason"]) == (409, True)
        assert httpx.post(url, json=body).status_code == 200
    assert machines.struck == [("b", Strike(how="cable", for_s=3.0))]


def test_the_servers_own_machine_is_never_struck(http: httpx.Client) -> None:
    answer = http.post("/status/strike", json=STRIKE)
    assert (answer.status_code, "none but the server's own" in answer.json()["reason"]) == (409, True)


@pytest.mark.parametrize(
    ("models", "change", "problem"),
    [
        ([], {}, "no model 'tiny'"),
        ([model_of()], {}, "no worker 0 that serves now"),
        ([model_of(1, 2)], {"replica": 7}, "replica 7 has no worker"),
        ([model_of(1, 2)], {"worker": 2}, "no worker 2"),
    ],
)
def test_who_cannot_be_killed(models: list[dict[str, Any]], change: dict[str, int], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        find_victim(models, KillBody(**KILL | change))
