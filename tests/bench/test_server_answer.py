"""Servers that are none of Shoal's, or not as they should be."""

from __future__ import annotations

import httpx
import pytest

from shoal.bench.server_answer import check_address, key_header, told_by
from shoal.errors import ConfigError


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (200, b"<html>hello", "is not a Shoal server"),
        (200, b"[]", "is not a Shoal server"),
        (200, b'{"models": 5}', "is not a Shoal server"),
        (200, b"\xff", "is not a Shoal server"),
        (500, b'{"models": []}', "is not a Shoal server"),
        (400, b"nothing", "is not a Shoal server"),
        (400, b'{"reason": "give ?of="}', "give ?of="),
        (401, b"", "--api-key"),
    ],
)
def test_what_is_no_answer(status: int, content: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        told_by(httpx.Response(status, content=content), "http://here", "models")
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "a\0b"])
def test_keys_that_no_header_carries(key: str) -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        key_header(key)


def test_keys() -> None:
    assert key_header("k 1") == {"authorization": "Bearer k 1"}
    assert key_header(None) == key_header("") == {}


def test_addresses_that_cannot_be() -> None:
    check_address("http://[::1]:8000")
    for url in ("http://127.0.0.1:99999", "http://127.0.0.1:-1", "http://127.0.0.1:port", "http://[::1"):
        with pytest.raises(ConfigError, match="is not the address of a server"):
            check_address(url)


def test_an_answer() -> None:
    assert told_by(httpx.Response(200, content=b'{"models": [], "version": "1"}'), "", "models")["version"] == "1"
