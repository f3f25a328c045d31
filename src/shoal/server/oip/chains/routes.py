"""Routes of chains besides those of models: /v2/models/CHAIN and below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from shoal.inference.repository import ModelNotReady
from shoal.inference.served_chain import CHAIN_VERSION, ServedChain
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.http.disconnect import ClientGone, run_until_disconnect
from shoal.server.http.request_log import request_id_of
from shoal.server.oip.chains.body import ChainRequest, read_request
from shoal.server.oip.chains.calls import answer_of, chain_metadata, chain_statistics
from shoal.server.oip.rest.infer_answer import encode_answer
from shoal.server.oip.rest.infer_endpoint import answer_headers, json_size_of


class ChainApi:
    """Handlers of one chain."""

    def __init__(self, served: ServedChain, bodies: RequestBodies) -> None:
        self._served = served
        self._chain = served.chain
        self._bodies = bodies

    def routes(self) -> list[BaseRoute]:
        """For the app's router, before the routes of models."""
        name = self._chain.name
        return [
            route
            for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{CHAIN_VERSION}")
            for route in (
                Route(f"{path}/infer", self.infer, methods=["POST"]),
                Route(path, self.metadata, methods=["GET"]),
                Route(f"{path}/ready", self.ready, methods=["GET"]),
                Route(f"{path}/stats", self.statistics, methods=["GET"]),
            )
        ]

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/CHAIN/infer"""
        json_size = json_size_of(request.scope)
        async with self._bodies.read(request.scope, request.receive) as body:
            asked = await read_request(self._chain, request.headers, bytes(body), json_size)
        call = asked.form.call
        work = self._served.infer(asked.given, call.timeout_s, request_id_of(request.scope))
        try:
            outputs = await run_until_disconnect(request.receive, work)
        except ClientGone:
            return Response(status_code=400)  # nobody reads it
        pieces = await self._bodies.off_loop(lambda: self._encode(outputs, asked))
        return Response(b"".join(pieces), 200, {k.decode(): v.decode() for k, v in answer_headers(pieces)})

    async def metadata(self, request: Request) -> Response:
        """GET /v2/models/CHAIN"""
        return _json(chain_metadata(self._chain))

    async def ready(self, request: Request) -> Response:
        """GET /v2/models/CHAIN/ready: ready if all of its graphs are in service."""
        if (reason := self._served.failure) is not None:
            raise ModelNotReady(reason)
        return _json({"name": self._chain.name, "ready": True})

    async def statistics(self, request: Request) -> Response:
        """GET /v2/models/CHAIN/stats"""
        return _json({"model_stats": [chain_statistics(self._served)]})

    def _encode(self, outputs: dict[str, Any], asked: ChainRequest) -> Sequence[bytes | memoryview]:
        return encode_answer(answer_of(self._chain, asked.form.call, outputs), asked.form)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
