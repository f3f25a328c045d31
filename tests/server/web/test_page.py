"""The page's files: what browsers are told of them, and that they were built from the sources beside them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import httpx
import pytest

from shoal.server.web.page import ASSETS
from tests.server.fakes import FakeEngine
from tests.server.oip.running import run_server as run_graph_server
from tests.server.running_server import run_server
from tests.server.web.plans import page

WEB = Path(__file__).parents[3] / "web"
FILES = ["/", "/web/app.js", "/web/app.css", "/web/icon.svg", "/web/licenses.txt"]


def test_files_are_served_with_what_keeps_others_out() -> None:
    with run_server(FakeEngine(), page=page(), api_key="secret") as running:
        for path in FILES:
            answer = httpx.get(running.url + path)
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_file_that_has_not_changed_is_not_sent_again() -> None:
    with run_server(FakeEngine(), page=page()) as running:
        etag = httpx.get(f"{running.url}/web/app.js").headers["etag"]
        answer = httpx.get(f"{running.url}/web/app.js", headers={"if-none-match": etag})
        assert (answer.status_code, answer.content) == (304, b"")
        assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("name", ["..%2fpage.py", "sources.sha256", "%2e%2e/page.py", "app.js%00", "x" * 4000])
def test_nothing_else_is_served(name: str) -> None:
    with run_server(FakeEngine(), page=page()) as running:
        assert httpx.get(f"{running.url}/web/{name}").status_code == 404


def test_without_the_page_there_is_none() -> None:
    with run_server(FakeEngine()) as running:
        for path in (*FILES, "/status/page", "/status/history"):
            assert httpx.get(running.url + path).status_code == 404


def test_graphs_have_the_page_too() -> None:
    with run_graph_server(page=page(), api_key="secret") as running:
        assert "<script" in httpx.get(running.url).text
        assert httpx.get(f"{running.url}/status/page").status_code == 401


def test_other_hosts_get_no_page() -> None:
    with run_server(FakeEngine(), page=page(), allowed_hosts=()) as running:
        assert httpx.get(running.url, headers={"host": "evil.example"}).status_code == 403


def test_scripts_and_styles_stand_in_files() -> None:
    text = (ASSETS / "index.html").read_text()
    assert re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", text) is None
    assert re.search(r"(src|href)=\"(?!web/)", text) is None


def test_the_page_works_behind_a_prefix_of_a_proxy() -> None:
    """Links and calls are relative to the page's own address."""
    script = (ASSETS / "app.js").read_text()
    assert re.findall(r"fetch\((..)", script) == ["`."]
    assert '"/web/' not in script


def test_the_page_asks_no_other_host() -> None:
    """Addresses in the script are name spaces, and where a library's own error message sends its reader."""
    found = set(re.findall(r"https?://[\w.-]+", (ASSETS / "app.js").read_text()))
    assert found <= {"http://www.w3.org", "https://github.com"}
    assert "@import" not in (ASSETS / "app.css").read_text()


@pytest.mark.skipif(not WEB.exists(), reason="the page's sources are not part of the package")
def test_the_page_was_built_from_these_sources() -> None:
    files = [WEB / "build.mjs", WEB / "package-lock.json", *(WEB / "src").iterdir()]
    lines = {f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(WEB).as_posix()}" for path in files}
    told = set((ASSETS / "sources.sha256").read_text().splitlines())
    assert told == lines, "the page's sources have changed: run `make web` and commit what it writes"


def test_packages_come_from_nowhere_but_npm() -> None:
    """Entries without an address are fetched from the registry that npm is set up with, and checked by their hash."""
    lock = (WEB / "package-lock.json").read_text()
    assert set(re.findall(r"\"resolved\": \"(https?://[^/]+)", lock)) <= {"https://registry.npmjs.org"}
    assert "git+" not in lock
