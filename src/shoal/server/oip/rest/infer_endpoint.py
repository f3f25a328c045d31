"""POST /v2/models/NAME[/versions/VERSION]/infer: the hot path, straight on ASGI."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from shoal.errors import InvalidRequest
from shoal.server.body import receive_body
from shoal.server.disconnect import ClientGone, DisconnectWatch
from shoal.server.oip.inference import run_inference
from shoal.server.oip.repository import ModelRepository
from shoal.server.oip.rest.compression import unpack
from shoal.server.oip.rest.infer_answer import encode_answer
from shoal.server.oip.rest.infer_body import parse_body

_JSON_SIZE = b"inference-header-content-length"
_HEADERS = (b"content-length", b"content-encoding", _JSON_SIZE)

_WATCH_AFTER_S = 0.1
"""Requests that are done sooner end before anybody could cancel them to some use."""


class InferEndpoint:
    """An ASGI application; Starlette's Request and Response objects would cost a tenth of a millisecond."""

    def __init__(self, repository: ModelRepository, max_request_bytes: int) -> None:
        self._repository = repository
        self._max_request_bytes = max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            raise HTTPException(405, headers={"allow": "POST"})
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
        body = await self._read(headers, receive)
        path: dict[str, str] = scope["path_params"]
        request = parse_body(body, _json_size(headers), model_name=path["name"], model_version=path.get("version", ""))
        try:
            with DisconnectWatch(receive, _WATCH_AFTER_S):
                answer = await run_inference(self._repository, request.call)
        except ClientGone:
            return
        content, json_size = encode_answer(answer, request)
        await send({"type": "http.response.start", "status": 200, "headers": _answer_headers(len(content), json_size)})
        await send({"type": "http.response.body", "body": content})

    async def _read(self, headers: dict[bytes, str], receive: Receive) -> bytes | bytearray:
        limit_bytes = self._max_request_bytes
        body = await receive_body(receive, headers.get(b"content-length", ""), limit_bytes)
        return unpack(body, headers.get(b"content-encoding", ""), limit_bytes)


def _json_size(headers: dict[bytes, str]) -> int | None:
    given = headers.get(_JSON_SIZE)
    if given is None:
        return None
    if not given.isdecimal():
        raise InvalidRequest(f"Inference-Header-Content-Length is {given!r}: expected a number of bytes")
    return int(given)


def _answer_headers(num_bytes: int, json_size: int | None) -> list[tuple[bytes, bytes]]:
    length = (b"content-length", str(num_bytes).encode())
    if json_size is None:
        return [length, (b"content-type", b"application/json")]
    return [length, (b"content-type", b"application/octet-stream"), (_JSON_SIZE, str(json_size).encode())]
