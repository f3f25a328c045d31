"""Pictures within a request, and what is refused before anything is decoded."""

from __future__ import annotations

import base64
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from shoal.errors import InvalidRequest
from shoal.vision import sources
from shoal.vision.kept_vectors import KeptVectors
from shoal.vision.sources import MAX_PICTURE_BYTES, read_source


@pytest.mark.parametrize("head", ["data:image/png;base64,", "DATA:image/jpeg;charset=utf-8;base64,", "data:;base64,"])
def test_data_urls(head: str) -> None:
    assert read_source(head + base64.b64encode(b"fish").decode(), allows_remote=False) == b"fish"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png,fish", "must begin with"),
        ("data:text/plain;base64,ZmlzaA==", "must begin with"),
        ("data:image/png;base64,Zml zaA==", "no valid base64"),
        ("data:image/png;base64,Zmlzaé", "no valid base64"),
        ("https://example.invalid/fish.png", "--allow-remote-media"),
        ("file:///etc/passwd", "must begin with"),
        ("ftp://127.0.0.1/fish.png", "must begin with"),
        ("fish.png", "must begin with"),
        ("", "must begin with"),
        ("data:image/png;base64," + "A" * (MAX_PICTURE_BYTES * 4 // 3 + 8), "more than 32 MB"),
    ],
)
def test_what_is_refused(url: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_source(url, allows_remote=False)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/fish.png", "http://[::1", "https://", "http://127.0.0.1:99999/"])
def test_what_cannot_be_fetched(url: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be fetched"):
        read_source(url, allows_remote=True)


def test_pieces_that_keep_coming_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pieces(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"fish")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Pieces) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/fish.png"
        try:
            assert read_source(url, allows_remote=True) == b"fish"
            monkeypatch.setattr(sources, "_MOST_FETCH_S", -1.0)
            with pytest.raises(InvalidRequest, match="cannot be fetched: it takes more than"):
                read_source(url, allows_remote=True)
        finally:
            server.shutdown()
            thread.join()


def test_the_least_recently_used_vectors_go_first() -> None:
    kept = KeptVectors(max_bytes=10)
    kept.put(b"a", b"1234")
    kept.put(b"b", b"1234")
    assert kept.get(b"a") == b"1234"
    kept.put(b"c", b"1234")
    assert (kept.get(b"b"), kept.get(b"a"), kept.get(b"c")) == (None, b"1234", b"1234")
    kept.put(b"d", b"x" * 11)
    assert kept.get(b"d") is None
    assert kept.get(b"a") == b"1234"
