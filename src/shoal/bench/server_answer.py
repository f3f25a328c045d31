"""Reading a server's answers, for the commands that query it."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from shoal.errors import ConfigError


def key_header(api_key: str | None) -> dict[str, str]:
    """The header with a key; empty without a key. Raises ConfigError if the key is invalid in a header."""
    if not api_key:
        return {}
    if not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError("--api-key: a key is visible ASCII characters, as headers carry them")
    return {"authorization": f"Bearer {api_key}"}


def check_address(url: str) -> None:
    """Raises ConfigError if the address is invalid: its scheme, its host, or its port, which httpx does not check."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"{url} is not the address of a server: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url} is not the address of a server: give it as http://HOST:PORT")


def told_by(response: httpx.Response, url: str, part: str) -> dict[str, Any]:
    """The JSON of an answer.

    Args:
        response: an answer with any status.
        url: the server's address, for errors.
        part: the name of a list that must be in it, such as `models`.

    Raises:
        ConfigError: the server requires a key, refuses the request, or is not a Shoal server.
    """
    if response.status_code == 401:
        raise ConfigError(f"the server at {url} requires a key: give --api-key or set SHOAL_API_KEY")
    try:
        told: object = response.json()
    except ValueError:
        told = None
    fields = cast(dict[str, Any], told) if isinstance(told, dict) else {}
    if response.status_code == 400 and isinstance(reason := fields.get("reason"), str):
        raise ConfigError(reason)
    if response.status_code != 200 or not isinstance(fields.get(part), list):
        raise ConfigError(f"the server at {url} is not a Shoal server of this version (status {response.status_code})")
    return fields
