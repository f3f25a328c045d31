"""POST /v2/models/NAME[/versions/VERSION]/infer: the hot path, implemented directly on ASGI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from shoal.errors import InvalidRequest
from shoal.inference.repository import ModelRepository
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.http.disconnect import ClientGone, DisconnectWatch
from shoal.server.http.request_log import request_id_of
from shoal.server.oip.inference import InferAnswer, run_inference
from shoal.server.oip.rest.infer_answer import encode_answer
from shoal.server.oip.rest.infer_body import SMALL_JSON_BYTES, ParsedBody, parse_body

_JSON_SIZE = b"inference-header-content-length"
_MAX_DIGITS = 18

_WATCH_AFTER_S = 0.1
"""Requests that are finished sooner end before cancelling them would save anything."""

_QUICK_BYTES = 1 << 18
"""Bodies and answers up to this size are processed in the event loop, faster than a thread could take them over."""

_PIECE_BYTES = 1 << 20


class InferEndpoint:
    """An ASGI application; Starlette's Request and Response objects would cost a tenth of a millisecond."""

    def __init__(self, repository: ModelRepository, bodies: RequestBodies) -> None:
        self._repository = repository
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            raise HTTPException(405, headers={"allow": "POST"})
        json_size = json_size_of(scope)
        async with self._bodies.read(scope, receive) as body:
            request = await self._parse(body, json_size, scope["path_params"])
            try:
                with DisconnectWatch(receive, _WATCH_AFTER_S):
                    answer = await run_inference(self._repository, request.call, request_id_of(scope))
            except ClientGone:
                return
        pieces = await self._encode(answer, request)
        await send({"type": "http.response.start", "status": 200, "headers": answer_headers(pieces)})
        if sum(map(len, pieces)) <= _QUICK_BYTES:
            pieces = [b"".join(pieces)]
        for piece in _cut(pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _parse(self, body: bytes | bytearray, json_size: int | None, path: Mapping[str, str]) -> ParsedBody:
        def parse() -> ParsedBody:
            return parse_body(body, json_size, model_name=path["name"], model_version=path.get("version", ""))

        is_small = (len(body) if json_size is None else json_size) <= SMALL_JSON_BYTES and len(body) <= _QUICK_BYTES
        return parse() if is_small else await self._bodies.off_loop(parse)

    async def _encode(self, answer: InferAnswer, request: ParsedBody) -> list[bytes | memoryview]:
        num_bytes = sum(array.nbytes for array in answer.outputs.values())
        if num_bytes <= _QUICK_BYTES:
            return encode_answer(answer, request)
        return await self._bodies.off_loop(lambda: encode_answer(answer, request))


def json_size_of(scope: Scope) -> int | None:
    """Bytes of the JSON part if binary tensors follow; None: the whole body is JSON. Raises InvalidRequest."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == _JSON_SIZE), None)
    if given is None:
        return None
    if not given.isdecimal() or len(given) > _MAX_DIGITS:
        raise InvalidRequest(f"Inference-Header-Content-Length is {given[:40]!r}: expected a number of bytes")
    return int(given)


def _cut(pieces: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """Pieces that the loop passes to the system one at a time: otherwise a client that reads fast would take all at
    once."""
    for piece in pieces:
        for first in range(0, len(piece), _PIECE_BYTES):
            yield memoryview(piece)[first : first + _PIECE_BYTES]


def answer_headers(pieces: Sequence[bytes | memoryview]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that consists of these pieces, of which the first is JSON."""
    length = (b"content-length", str(sum(map(len, pieces))).encode())
    if len(pieces) == 1:
        return [length, (b"content-type", b"application/json")]
    return [length, (b"content-type", b"application/octet-stream"), (_JSON_SIZE, str(len(pieces[0])).encode())]
