"""Chains beside the models: /v2/models/CHAIN and what is below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from shoal.chains.steps import InputKind
from shoal.errors import RequestError
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.http.disconnect import ClientGone, run_until_disconnect
from shoal.server.http.request_log import request_id_of
from shoal.server.oip.chains.body import ChainRequest, as_array, read_request
from shoal.server.oip.chains.served_chain import CHAIN_VERSION, ServedChain
from shoal.server.oip.inference import InferAnswer
from shoal.server.oip.models.repository import ModelNotReady
from shoal.server.oip.rest.infer_answer import encode_answer
from shoal.server.oip.rest.infer_endpoint import answer_headers, json_size_of

PLATFORM = "shoal_chain"
_NS = 1_000_000_000


class ChainApi:
    """Handlers of one chain."""

    def __init__(self, served: ServedChain, bodies: RequestBodies) -> None:
        self._served = served
        self._chain = served.chain
        self._bodies = bodies

    def routes(self) -> list[BaseRoute]:
        """For the app's router, before those of the models."""
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
        inputs = [{"name": name, **_described(kind)} for name, kind in self._chain.inputs.items()]
        outputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in self._chain.outputs]
        return _json(
            {
                "name": self._chain.name,
                "versions": [CHAIN_VERSION],
                "platform": PLATFORM,
                "inputs": inputs,
                "outputs": outputs,
            }
        )

    async def ready(self, request: Request) -> Response:
        """GET /v2/models/CHAIN/ready: when all of its graphs are in service."""
        if (reason := self._served.failure) is not None:
            raise ModelNotReady(reason)
        return _json({"name": self._chain.name, "ready": True})

    async def statistics(self, request: Request) -> Response:
        """GET /v2/models/CHAIN/stats"""
        counts = self._served.counts
        failed = {"count": sum(counts.num_failed.values()), "ns": round(counts.failure_s * _NS)}
        succeeded = {"count": counts.num_succeeded, "ns": round(counts.success_s * _NS)}
        stats = {"name": self._chain.name, "version": CHAIN_VERSION, "inference_count": counts.num_succeeded}
        return _json({"model_stats": [{**stats, "inference_stats": {"success": succeeded, "fail": failed}}]})

    def _encode(self, outputs: dict[str, Any], asked: ChainRequest) -> Sequence[bytes | memoryview]:
        call = asked.form.call
        try:
            arrays = {name: as_array(name, outputs[name]) for name in call.outputs or self._chain.outputs}
        except (TypeError, ValueError) as error:
            raise RequestError(f"an output of {self._chain.name!r} cannot be written: {error}") from error
        answer = InferAnswer(
            model_name=self._chain.name, model_version=CHAIN_VERSION, request_id=call.request_id, outputs=arrays
        )
        return encode_answer(answer, asked.form)


def _described(kind: InputKind) -> dict[str, Any]:
    """As clients of the protocol see it: a file is a string, a data URL or base64."""
    if kind is InputKind.TENSOR:
        return {"datatype": "FP32", "shape": [-1]}
    return {"datatype": "BYTES", "shape": [-1 if kind is InputKind.TEXTS else 1], "parameters": {"kind": str(kind)}}


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
