"""Which requests may come from a web page, and under which names a server on loopback answers."""

from __future__ import annotations

from collections.abc import Generator

import httpx
import pytest

from shoal.errors import ConfigError
from shoal.server.http.host_check import check_origins, is_loopback
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


def test_pages_of_other_hosts_may_be_allowed() -> None:
    """A browser asks first, without the key, and reads the answer only with the header that names its page."""
    page = "https://app.example"
    with run_server(FakeEngine(), allowed_hosts=[], cors_origins=[page], api_key="k") as running:
        asked = {"origin": page, "access-control-request-method": "POST"}
        url = f"{running.url}/v1/chat/completions"
        asked["access-control-request-headers"] = "authorization,content-type"
        answer = httpx.options(url, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == page
        assert "authorization" in answer.headers["access-control-allow-headers"]
        assert httpx.options(url, headers={**asked, "origin": "https://evil.com"}).status_code == 400
        body = {"messages": [{"role": "user", "content": "{hi}"}], "stream": True}
        key = {"authorization": "Bearer k"}
        for headers, status in (({"origin": page, **key}, 200), ({"origin": page}, 401)):
            answer = httpx.post(url, headers=headers, json=body)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, page)
        assert httpx.post(url, headers={"origin": "https://evil.com", **key}, json=body).status_code == 403


def test_pages_of_all_hosts_may_be_allowed() -> None:
    with run_graph_server(allowed_hosts=[], cors_origins=["*"]) as graphs:
        answer = httpx.get(f"{graphs.url}/version", headers={"origin": "https://any.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://", "://x"])
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(ConfigError, match="--cors-origin"):
        check_origins([origin])


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
