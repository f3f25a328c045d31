"""Optional API key: `Authorization: Bearer KEY`, or Anthropic's `x-api-key: KEY`, on the API's paths.

Probes and metrics stay open.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.errors import ConfigError

_MAX_KEY_BYTES = 4_096


def read_api_key(key: str | None, file: Path | None) -> str | None:
    """The key that clients must send: given directly, or read from a file. None if neither is given.

    Raises:
        ConfigError: the key is empty, both are given, or no header could contain it.
    """
    if file is None:
        return None if key is None else _checked("--api-key", key)
    if key is not None:
        raise ConfigError("--api-key-file takes the place of --api-key and SHOAL_API_KEY: give only one of them")
    try:
        with file.open("rb") as content:
            text = content.read(_MAX_KEY_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {file}: cannot be read as text: {error}") from error
    return _checked(f"--api-key-file {file}", text.strip())


def _checked(option: str, key: str) -> str:
    if not key.strip():
        raise ConfigError(f"{option} is empty: give a key, or leave it out to serve everybody")
    if len(key) > _MAX_KEY_BYTES or not key.isascii() or not key.isprintable() or key != key.strip():
        raise ConfigError(f"{option}: a key is up to {_MAX_KEY_BYTES} visible ASCII characters, as headers carry them")
    return key


class ApiKeyCheck:
    """Checks keys, comparing in constant time."""

    def __init__(self, api_key: str) -> None:
        self._expected = f"Bearer {api_key}".encode()

    def accepts(self, authorization: str) -> bool:
        """Whether an `authorization` header or metadata entry contains the key; empty: there was none."""
        return hmac.compare_digest(authorization.encode("latin-1", "replace"), self._expected)


class ApiKeyMiddleware:
    """Refuses a request without the key before anything else handles it."""

    def __init__(
        self,
        app: ASGIApp,
        api_key: str,
        prefix: str | tuple[str, ...],
        refuse: Callable[[], Response],
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        """
        Args:
            app: the guarded application.
            api_key: the key.
            prefix: beginning or beginnings of the paths that need the key.
            open_paths: paths that are exempt.
            refuse: makes the answer without it, in the form of the API.
        """
        self._app = app
        self._check = ApiKeyCheck(api_key)
        self._prefix = prefix
        self._refuse = refuse
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        is_refused = scope["type"] == "http" and not self._may_pass(scope)
        await (self._refuse() if is_refused else self._app)(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if path in self._open_paths or not path.startswith(self._prefix):
            return True
        headers = Headers(scope=scope)
        return self._check.accepts(headers.get("authorization") or f"Bearer {headers.get('x-api-key', '')}")
