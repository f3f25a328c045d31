"""Which requests may come from a web page, and under which names a server on loopback answers."""

from __future__ import annotations

from collections.abc import Generator

import httpx
import pytest

from shoal.server.http.host_check import is_loopback
from tests.server.fakes import FakeEngine
from tests.server.hostile_requests import send_raw
from tests.server.oip.running import run_server as run_graph_server
from tests.server.running_server import run_server


@pytest.fixture(scope="module", params=["openai", "graphs"])
def url(request: pytest.FixtureRequest) -> Generator[str, None, None]:
    if request.param == "openai":
        with run_server(FakeEngine(), allowed_hosts=["app.example"]) as running:
            yield running.url
    else:
        with run_graph_server(allowed_hosts=["app.example"]) as graphs:
            yield graphs.url


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("localhost.", True),
        ("127.0.0.1", True),
        ("127.9.8.7:1", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("[::ffff:127.0.0.1]", True),
        ("app.example", True),
        ("App.Example:443", True),
        ("localhost.evil.com", False),
        ("127.0.0.1.nip.io", False),
        ("evil.com", False),
        ("evil.com:localhost", False),
        ("localhost:evil", False),
        ("localhost@evil.com", False),
        ("2130706433", False),
        ("0x7f000001", False),
        ("127.1", False),
        ("0.0.0.0", False),
        ("[::]", False),
        ("::1", False),
        ("[fe80::1]", False),
        ("10.0.0.1", False),
        ("my.app.example", False),
        ("", False),
        ("localhost,evil.com", False),
        ("localhost evil.com", False),
    ],
)
def test_hosts(url: str, host: str, is_allowed: bool) -> None:
    answer = send_raw(url, f"GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200" if is_allowed else b"HTTP/1.1 403"), answer
    if not is_allowed:
        assert b"--allowed-host" in answer


def test_the_host_of_an_absolute_url_counts(url: str) -> None:
    answer = send_raw(url, b"GET http://evil.com/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403")


def test_a_check_without_a_host_passes(url: str) -> None:
    """Load balancers' checks in HTTP/1.0; browsers always name one."""
    assert send_raw(url, b"GET /version HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "https://app.example", "sec-fetch-site": "cross-site"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://evil.com"}, 403),
        ({"origin": "http://localhost.evil.com"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "file://localhost"}, 403),
        ({"origin": "chrome-extension://localhost"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_pages(url: str, headers: dict[str, str], status: int) -> None:
    assert httpx.get(f"{url}/version", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.2", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
