"""Embeddings and reranking: /v1/embeddings, /v1/rerank, /v2/rerank and /v1/score."""

from __future__ import annotations

import base64
import time
import uuid
from typing import TypeVar

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.arrays import F32
from shoal.embeddings.encoder import Encoded, TextEncoder
from shoal.embeddings.ranking import scores_of
from shoal.embeddings.vectors import shortened
from shoal.errors import InvalidRequest
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.embeddings.calls import answered, bounded_body
from shoal.server.embeddings.ollama_api import EMBED_PATHS, OllamaEmbedApi
from shoal.server.embeddings.schemas import EmbeddingsBody, RerankBody, ScoreBody
from shoal.server.openai.body.fields import STRICT_FIELDS
from shoal.server.openai.errors import from_exception, unknown_model
from shoal.server.openai.models import either_slash, model_card, model_list

_PATHS = ("/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score")
PATHS = (*_PATHS, *EMBED_PATHS)
_QUICK_VALUES = 20_000
"""Up to this many numbers are written in the event loop, more in a thread."""

BodyT = TypeVar("BodyT", EmbeddingsBody, RerankBody, ScoreBody)
_json = msgspec.json.Encoder().encode


class EmbeddingApi:
    """Handlers over one encoder."""

    def __init__(
        self, encoder: TextEncoder, bodies: RequestBodies, model_name: str, *, strict_fields: bool = False
    ) -> None:
        """`strict_fields`: refuse unknown fields in bodies."""
        self._encoder = encoder
        self._bodies = bodies
        self._model_name = model_name
        self._context = {STRICT_FIELDS: strict_fields}
        self._created_s = int(time.time())

    def routes(self) -> list[Route]:
        """For the app's router."""
        embeddings, *reranks, score, short_score = _PATHS
        return [
            answered(embeddings, self.embeddings, _answer_error),
            *(answered(path, self.rerank, _answer_error) for path in reranks),
            *(answered(path, self.score, _answer_error) for path in (score, short_score)),
            *OllamaEmbedApi(self._encoder, self._bodies, self._model_name).routes(),
        ]

    def model_routes(self) -> list[Route]:
        """The routes that describe the model, for a server that has no such routes yet."""
        return [
            *either_slash("/v1/models", self.models, "GET"),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            *OllamaEmbedApi(self._encoder, self._bodies, self._model_name).description_routes(),
        ]

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse(model_list([model_card(self._model_name, self._created_s)]))

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}"""
        name = request.path_params["name"]
        if name != self._model_name:
            return unknown_model(name).response()
        return JSONResponse(model_card(name, self._created_s))

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        body = await self._read(request, EmbeddingsBody)
        if self._encoder.compares:
            raise InvalidRequest("this model compares texts and makes no vectors: use /v1/rerank or /v1/score")
        encoded = await self._encoder.embed(
            body.input,
            kind=body.input_type or "",
            cuts=body.truncate_prompt_tokens is not None,
            timeout_s=body.timeout,
        )
        vectors = encoded.values if body.dimensions is None else shortened(encoded.values, body.dimensions)

        def answer() -> bytes:
            data = [
                {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
                for index, vector in enumerate(vectors)
            ]
            return _json({"object": "list", "data": data, "model": self._model_name, "usage": _usage(encoded)})

        content = answer() if vectors.size <= _QUICK_VALUES else await self._bodies.off_loop(answer)
        return Response(content, media_type="application/json")

    async def rerank(self, request: Request) -> Response:
        """POST /v1/rerank"""
        body = await self._read(request, RerankBody)
        pairs = [(body.query, document) for document in body.documents]
        scored = await scores_of(self._encoder, pairs, body.timeout, body.instruction or "")
        best = np.argsort(-scored.values, kind="stable")[: body.top_n]
        shows = bool(body.return_documents)
        results: list[dict[str, object]] = []
        for index in map(int, best):
            shown = {"document": {"text": body.documents[index]}} if shows else dict[str, object]()
            results.append({"index": index, "relevance_score": float(scored.values[index]), **shown})
        fields = {"id": f"rerank-{uuid.uuid4().hex}", "model": self._model_name, "usage": _usage(scored)}
        return Response(_json({**fields, "results": results}), media_type="application/json")

    async def score(self, request: Request) -> Response:
        """POST /v1/score"""
        body = await self._read(request, ScoreBody)
        scored = await scores_of(self._encoder, body.pairs, body.timeout, body.instruction or "")
        data = [{"index": index, "object": "score", "score": float(value)} for index, value in enumerate(scored.values)]
        fields = {
            "id": f"score-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": self._model_name,
        }
        return Response(_json({**fields, "data": data, "usage": _usage(scored)}), media_type="application/json")

    async def _read(self, request: Request, schema: type[BodyT]) -> BodyT:
        async with bounded_body(request, self._bodies) as content:
            body = schema.model_validate_json(content, context=self._context)
        if body.model not in (None, self._model_name):
            raise unknown_model(body.model or "")
        return body


async def _answer_error(request: Request, error: Exception) -> Response:
    """In OpenAI's form, whatever other dialects the server has."""
    return from_exception(error).response()


def _written(vector_H: F32, encoding: str | None) -> object:
    if encoding == "base64":
        return base64.b64encode(vector_H.astype("<f4").tobytes()).decode()
    return vector_H.tolist()


def _usage(encoded: Encoded) -> dict[str, int]:
    return {"prompt_tokens": encoded.num_tokens, "total_tokens": encoded.num_tokens}
